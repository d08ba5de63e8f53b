"""What surrounds the model: the `training`, `data`, `tokenizer` and `logging` groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trireme.config.path_text import PathText


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
