"""Define small records that an engine fills and that metrics, checkpoints and reports read."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["sft", "classify", "tag", "qa", "dpo"]
"""What a model is fine-tuned for; see `trireme.shards.examples.ExamplesRecord`."""
TargetKind = Literal["single", "multi", "value"]
"""What classify predicts: one class, a set of classes, or a number."""
Truncation = Literal["left", "right", "drop"]
"""What happens to a text that is longer than a row: its beginning or its end is cut off, or it is not used."""


@dataclass(frozen=True, kw_only=True)
class LayerRouting:
    """Hold how a mixture-of-experts layer routed the tokens of a global batch, and the resulting losses."""

    layer: int
    """Number of the layer, from 1."""
    load_balancing_loss: float | None
    """Mean over micro batches, before its coefficient; 1 where experts are loaded equally. None where it is off."""
    z_loss: float | None
    """Mean over tokens of the squared logsumexp of the router's logits, before its coefficient; None where off."""
    expert_load: tuple[float, ...]
    """Fraction of all assignments that went to each expert; they sum to 1."""

    @property
    def max_load_ratio(self) -> float:
        """Return the load of the most loaded expert over the mean: 1 where experts are loaded equally."""
        return max(self.expert_load) * len(self.expert_load)


@dataclass(frozen=True, kw_only=True)
class LossScaleState:
    """Hold the state of the dynamic loss scale of fp16 training."""

    scale: float
    """Factor of the loss in the next backward pass."""
    num_good_steps: int
    """Steps since the last one that was skipped, or since the scale last grew."""
    num_skips_left: int
    """Skipped steps until the scale is halved; 0 or less where each further one halves it."""


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """Hold the slowest rank compared with the ranks that do the same work."""

    slowest_rank: int
    slowest_rank_host: str
    slowest_rank_seconds: float
    """Its own time per step, without waiting for other ranks."""
    slowest_rank_ratio: float
    """That time over the median of the ranks of its pipeline stage; 1 where all are equally fast."""
