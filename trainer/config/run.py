"""Define the groups of one run: training, data, logging, checkpoint, health, recovery."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Schedule and retention of checkpoints."""

    save_interval: int = 500
    """Steps between checkpoints; 0 saves only at the end of the run."""
    async_save: bool = True
    """Block training only while the state is copied to host memory, 12 bytes per parameter that a rank saves; a thread
    writes it while training continues. false blocks until everything is on the disk."""
    keep_last: int = 3
    """Number of newest checkpoints to keep; older ones are deleted after a new one is committed. 0 keeps all."""
    keep_interval: int = 0
    """Never delete checkpoints whose step is a multiple of this; 0 means none."""
    keep_best: int = 0
    """Number of checkpoints with the lowest validation loss to keep in addition, by the last validation before each."""
    save_at_end: bool = True
    """Save a checkpoint after the last step and when the run is stopped."""
    verify: bool = True
    """Verify every file's sha256 against the checkpoint's manifest before loading."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Health monitoring. A process that dies always terminates the others; this is not configurable."""

    watchdog: bool = True
    """Terminate a hung run (exit code 79) and report the blocking rank."""
    heartbeat_seconds: float = 1.0
    """Heartbeat interval in seconds."""
    hang_step_multiple: float = 20.0
    """A step is a hang when it takes this many times the median of recent steps, and at least hang_min_seconds."""
    hang_min_seconds: float = 120.0
    """Minimum duration in seconds before a step counts as a hang."""
    startup_seconds: float = 3600.0
    """Time limit in seconds from the start to the end of the first step: building, loading, compiling, first
    collectives."""
    validation_seconds: float = 3600.0
    """Time limit of a validation in seconds."""
    checkpoint_seconds: float = 3600.0
    """Longest time in seconds for which saving a checkpoint may block the next step."""
    straggler_interval: int = 100
    """Steps over which each rank's compute time is compared with that of the others; 0 disables it."""
    straggler_ratio: float = 1.5
    """Warn when the slowest rank's compute time exceeds this multiple of the median rank's."""
    replica_check_interval: int = 0
    """Steps between checks that replicas of the same weights are bit-identical; 0 disables them."""
    replica_mismatch: Literal["stop", "warn"] = "stop"
    """Action when replicas differ: stop ends the run (exit code 80) without saving, warn continues."""
    note_bad_nodes: bool = True
    """Record suspect hosts (unresponsive, sole straggler, or diverged weights) in bad_nodes.jsonl; requeued Slurm jobs
    exclude them."""


AnomalyAction = Literal["off", "warn", "act"]


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """How a run reacts to non-finite values and spikes of loss or gradient norm: see
    docs/training/fault_tolerance.md."""

    max_skipped_steps: int = 10
    """Consecutive steps whose update is skipped because loss or gradient is not finite, before the run rolls back to
    the last good checkpoint; 0 never rolls back. Steps by which fp16 adjusts its loss scale do not count."""
    max_rollbacks: int = 3
    """Rollbacks at the same place of the run before it stops with exit code 82."""
    loss_spike: AnomalyAction = "warn"
    """Action on a loss spike: warn logs it; act rolls back to a checkpoint before it, skips the samples around it and
    continues."""
    grad_norm_spike: AnomalyAction = "off"
    """The same for a spike of the gradient norm, detected on its logarithm."""
    spike_window: int = 128
    """Steps of the median that a step is compared with; detection starts after half as many."""
    spike_threshold: float = 8.0
    """Robust standard deviations (1.4826 * median absolute deviation) above the median that count as a spike."""
    spike_min_rise: float = 0.1
    """Minimum rise above the median, in nats of the loss or of the logarithm of the gradient norm."""
    spike_patience: int = 3
    """Consecutive steps above the threshold that make a spike."""
    skip_steps_before: int = 10
    """Steps before the spike whose samples are skipped as well; the checkpoint must be older than these."""
    skip_steps_after: int = 0
    """Steps after the spike whose samples are skipped as well."""
    replay: PathText | None = None
    """recovery.jsonl of a run, or that run's directory: skip from the start the samples and updates that the run
    skipped. Reproduces its final losses bit for bit. null replays none."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batch and seed of a run."""

    train_iters: int = 1000
    """Optimizer steps of the whole run; the learning-rate schedule ends here."""
    global_batch_size: int = 16
    """Sequences per optimizer step over all ranks."""
    micro_batch_size: int = 1
    """Sequences per data-parallel rank per forward pass."""
    seed: int = 1234
    """Seeds initial weights, sample order and dropout."""
    eval_interval: int = 100
    """Steps between validations; 0 disables validation."""
    eval_iters: int | None = 10
    """Global batches per validation; null validates on every window or row of data.validation once."""
    eval_at_start: bool = False
    """Validates before the first step too, to show what training changes; that result cannot become the best one."""
    stop_after_step: int | None = None
    """Save a checkpoint and exit after this step; schedules still end at train_iters, so the run can be resumed."""

    @property
    def last_step(self) -> int:
        """Return the step after which this start of the run exits."""
        return min(self.train_iters, self.stop_after_step or self.train_iters)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One data set of a blend."""

    paths: list[PathText]
    """Shard prefixes (PREFIX.bin and PREFIX.idx); the data set is their concatenation."""
    weight: float = 1.0
    """Sampling weight of this data set, relative to the others."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Token shards to train and validate on."""

    train: list[DatasetConfig] = field(default_factory=list)
    """Data sets blended for training."""
    validation: list[DatasetConfig] = field(default_factory=list)
    """Data sets blended for validation; an empty list disables validation."""
    verify: Literal["none", "size", "checksum", "full"] = "size"
    """Checks of all training and validation shards before the start. none checks headers only. size also compares file
    sizes with index and manifest, and checks a sample of token ids in shards without a manifest. checksum also compares
    sha256 with the manifest, and checks all token ids in shards without one. full checks every token id of every shard.
    checksum and full read every byte."""
    reset_attention_mask: bool = False
    """Mask attention between documents of a sequence: attention is causal within each document. A document includes the
    eod_token_id that ends it."""
    reset_position_ids: bool = False
    """Restart positions from 0 in each document; a sequence that begins inside a document starts at 0 there."""
    eod_mask_loss: bool = False
    """Exclude from the loss the prediction after an eod_token_id: the first token of the next document."""
    eod_token_id: int | None = None
    """Token that ends a document; null takes the tokenizer's end-of-sequence token."""
    mask_prob: float | None = None
    """Share of tokens that a masked language model predicts (BERT 0.15, ModernBERT 0.3); null predicts next tokens."""
    mask_token_id: int | None = None
    """Token that hides others; null takes the tokenizer's [MASK] or <mask>."""
    mask_token_share: float = 0.8
    """Share of the predicted tokens that become the mask token."""
    random_token_share: float = 0.1
    """Share of the predicted tokens that become a random token; the others stay as they are."""
    mask_whole_words: bool = False
    """Hide words whole, as the tokenizer's pieces show them; requires tokenizer.path."""
    mask_word_list: PathText | None = None
    """File of words, one a line, for scripts without spaces (Chinese): with mask_whole_words, pieces that spell a
    listed word are hidden together. null takes each piece of these scripts as a word."""
    prefetch_steps: int = 2
    """Optimizer steps whose batches a background thread reads ahead; 0 reads within the step."""

    @property
    def uses_documents(self) -> bool:
        """Return whether a batch depends on document boundaries."""
        return self.reset_attention_mask or self.reset_position_ids or self.eod_mask_loss


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer that made the shards."""

    path: PathText | None = None
    """SentencePiece model or tokenizer.json; null trains on token ids alone and requires model.vocab_size."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases. Its failures never stop a run; metrics.jsonl contains the same metrics."""

    mode: Literal["online", "offline", "disabled"] = "offline"
    """online uploads while running, offline writes to the run directory for `wandb sync`. WANDB_MODE and
    WANDB_DISABLED override online and offline."""
    project: str | None = None
    """Project of the run; null takes WANDB_PROJECT, or trireme."""
    entity: str | None = None
    """Team or user; null takes WANDB_ENTITY, or the account's default."""
    tags: list[str] = field(default_factory=list)
    """Tags of the run; those of WANDB_TAGS are added."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Metrics and console output of a run."""

    log_interval: int = 1
    """Steps between metric records."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Progress bar on the console; auto shows a bar on a terminal and plain lines elsewhere."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases settings."""


WANDB_MODES: Mapping[str, Literal["online", "offline", "disabled"]] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""Accepted values of WANDB_MODE."""


def wandb_of(config: WandbConfig, *, environment: Mapping[str, str]) -> WandbConfig:
    """Merge W&B's own environment variables, which users set for all of their programs, into the settings.

    WANDB_MODE overrides `mode`, and WANDB_DISABLED overrides both, but neither enables what `mode` disables; WANDB_TAGS
    adds tags. WANDB_PROJECT and WANDB_ENTITY apply where the configuration has null.
    """
    mode = WANDB_MODES.get(environment.get("WANDB_MODE", ""), config.mode)
    if config.mode == "disabled" or environment.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    tags = [tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",")]
    return replace(
        config,
        mode=mode,
        project=config.project or environment.get("WANDB_PROJECT") or "trireme",
        entity=config.entity or environment.get("WANDB_ENTITY") or None,
        tags=list(dict.fromkeys([*config.tags, *filter(None, tags)])),
    )
