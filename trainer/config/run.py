"""The groups of one run: training, data, logging, checkpoints, health, recovery."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved, and when."""

    save_interval: int = 500
    """Steps between checkpoints; 0 saves only at the end of the run."""
    async_save: bool = True
    """Stop a step only while the state is copied to host memory, 12 bytes per parameter that a rank saves; a thread
    writes it while training goes on. False stops until all is on the disk."""
    keep_last: int = 3
    """Newest checkpoints that are kept; older ones are deleted after a new one is committed. 0 keeps all."""
    keep_interval: int = 0
    """Checkpoints whose step is a multiple of it are never deleted; 0 means none."""
    keep_best: int = 0
    """Checkpoints with the lowest validation loss that are kept besides, judged by the last validation before each."""
    save_at_end: bool = True
    """Save after the last step and when the run is stopped."""
    verify: bool = True
    """Compare every file's sha256 with the checkpoint's manifest before loading."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """How a run watches itself. That a process which dies ends the others is not configured: it always does."""

    watchdog: bool = True
    """End a run that no longer gets on, and name the rank that holds it up and where (exit code 79)."""
    heartbeat_seconds: float = 1.0
    """Seconds between a rank's words to the others about where it stands."""
    hang_step_multiple: float = 20.0
    """A step that takes this many times the median of the last ones is a hang, if it also takes hang_min_seconds."""
    hang_min_seconds: float = 120.0
    """No step is a hang before it has taken this long."""
    startup_seconds: float = 3600.0
    """Longest time from the start to the end of the first step: building, loading, compiling, the first collectives."""
    validation_seconds: float = 3600.0
    """Longest validation."""
    checkpoint_seconds: float = 3600.0
    """Longest time that saving a checkpoint may keep the run from its next step."""
    straggler_interval: int = 100
    """Steps over which the time that each rank computed is compared with the others'; 0 switches it off."""
    straggler_ratio: float = 1.5
    """Warn where the slowest rank computed this many times as long as the median rank."""
    replica_check_interval: int = 0
    """Steps between checks that ranks which hold copies of the same weights hold the same bits; 0 switches it off."""
    replica_mismatch: Literal["stop", "warn"] = "stop"
    """What follows when they do not: stop ends the run (exit code 80) without saving, warn goes on."""
    note_bad_nodes: bool = True
    """Write hosts whose rank no longer answers in a hang, or alone holds the others up in a step, or has the odd copy
    of weights, to bad_nodes.jsonl in the run directory: a Slurm job that is requeued or submitted again does without
    them."""


Reaction = Literal["off", "warn", "act"]


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What a run does about training that goes wrong: see docs/training/fault_tolerance.md."""

    max_skipped_steps: int = 10
    """Steps in a row whose update is left out, because loss or gradient is not finite, before the run goes back to the
    last good checkpoint; 0 never does. Steps by which fp16 finds its loss scale do not count."""
    max_rollbacks: int = 3
    """Times that the run goes back because of one place; when it has still not got past it, it ends (exit code 82)."""
    loss_spike: Reaction = "warn"
    """A loss far above those before: act goes back to a checkpoint before it, leaves out the samples of that stretch
    and goes on; warn only says so."""
    grad_norm_spike: Reaction = "off"
    """The same for the norm of the gradient, judged by its logarithm."""
    spike_window: int = 128
    """Steps whose median says what is usual; half as many must be there before a spike is looked for."""
    spike_threshold: float = 8.0
    """A spike is this many robust standard deviations (1.4826 * median absolute deviation) above the median."""
    spike_min_rise: float = 0.1
    """And at least so far above it, in nats of the loss or of the logarithm of the gradient's norm."""
    spike_patience: int = 3
    """Steps in a row that must be spikes."""
    skip_steps_before: int = 10
    """Steps before the first bad one whose samples are left out, too, and before which the checkpoint must lie."""
    skip_steps_after: int = 0
    """Steps behind the last bad one whose samples are left out, too."""
    replay: PathText | None = None
    """recovery.jsonl of a run, or that run's directory: the samples that it left out and the updates that it skipped
    are left out here from the start. Gives the losses that it had in the end, bit for bit. null for none."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batch and seed of a run."""

    train_iters: int = 1000
    """Optimizer steps of the whole run; schedules end here."""
    global_batch_size: int = 16
    """Sequences per optimizer step over all ranks."""
    micro_batch_size: int = 1
    """Sequences per data-parallel rank per forward pass."""
    seed: int = 1234
    """Seeds initial weights, sample order and dropout."""
    eval_interval: int = 100
    """Steps between validations; 0 switches validation off."""
    eval_iters: int = 10
    """Global batches per validation."""
    stop_after_step: int | None = None
    """Save and leave cleanly after this step; schedules still end at train_iters, so the run can be resumed."""

    @property
    def last_step(self) -> int:
        """Step after which a start leaves."""
        return min(self.train_iters, self.stop_after_step or self.train_iters)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One data set of a blend."""

    paths: list[PathText]
    """Shard prefixes (PREFIX.bin and PREFIX.idx); the data set is their concatenation."""
    weight: float = 1.0
    """Share of samples drawn from this data set, relative to the other weights."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Token shards to train and validate on."""

    train: list[DatasetConfig] = field(default_factory=list)
    """Data sets blended for training."""
    validation: list[DatasetConfig] = field(default_factory=list)
    """Data sets blended for validation; none switches validation off."""
    verify: Literal["none", "size", "checksum", "full"] = "size"
    """Checks of all shards, also those of validation, before the start. size compares file sizes with index and
    manifest, and looks at a sample of the token ids where no manifest vouches for them; checksum also compares sha256
    with the manifest and looks at all such ids; full looks at every token id of every shard, too. The latter two read
    every byte. none looks at headers only."""
    reset_attention_mask: bool = False
    """Keep tokens from attending to other documents of their sequence: attention is causal inside each document. A
    document ends with its eod_token_id, which belongs to it."""
    reset_position_ids: bool = False
    """Count positions from 0 in each document; a sequence that begins inside a document counts from there."""
    eod_mask_loss: bool = False
    """Leave out of the loss what is predicted behind an eod_token_id: the first token of the next document."""
    eod_token_id: int | None = None
    """Token that ends a document; null takes the tokenizer's end-of-sequence token."""
    prefetch_steps: int = 2
    """Optimizer steps whose batches a background thread reads ahead; 0 reads in the step itself."""

    @property
    def uses_documents(self) -> bool:
        """Whether a batch depends on where documents end."""
        return self.reset_attention_mask or self.reset_position_ids or self.eod_mask_loss


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer that made the shards."""

    path: PathText | None = None
    """SentencePiece model or tokenizer.json; null trains on token ids alone and needs model.vocab_size."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases. A failure of it never stops a run; metrics.jsonl holds the same numbers."""

    mode: Literal["online", "offline", "disabled"] = "offline"
    """online uploads while running, offline writes to the run directory for `wandb sync`. WANDB_MODE and
    WANDB_DISABLED win over online and offline."""
    project: str | None = None
    """Project the run appears in; null takes WANDB_PROJECT, or trireme."""
    entity: str | None = None
    """Team or user; null takes WANDB_ENTITY, or the account's default."""
    tags: list[str] = field(default_factory=list)
    """Tags of the run; those of WANDB_TAGS are added."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What a run tells, and where."""

    log_interval: int = 1
    """Steps between metric records."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Progress bar on the console; auto shows it on a terminal and plain lines elsewhere."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases settings."""


WANDB_MODES: Mapping[str, Literal["online", "offline", "disabled"]] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What WANDB_MODE may be."""


def wandb_of(config: WandbConfig, *, environment: Mapping[str, str]) -> WandbConfig:
    """Return the settings with what W&B's own variables say, which users set for all of their programs.

    WANDB_MODE wins over `mode` and WANDB_DISABLED over both, but neither turns on what `mode` turns off; WANDB_TAGS
    adds tags. WANDB_PROJECT and WANDB_ENTITY hold where the configuration has null.
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
