"""What one step says about the experts of one layer."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerRouting:
    """How a mixture-of-experts layer spread the tokens of a global batch, and what that costs."""

    layer: int
    """Number of the layer, from 1."""
    load_balancing_loss: float | None
    """Mean over micro batches, before its coefficient; 1 where experts are loaded equally. None where it is off."""
    z_loss: float | None
    """Mean over tokens of the squared logsumexp of the router's logits, before its coefficient; None where off."""
    expert_load: tuple[float, ...]
    """Share of all choices that fell on each expert; they add up to 1."""

    @property
    def max_load_ratio(self) -> float:
        """Load of the most loaded expert over the mean: 1 where experts are loaded equally."""
        return max(self.expert_load) * len(self.expert_load)
