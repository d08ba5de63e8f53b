"""Hold the result of one layout and the estimate of its bounds; the field names are those of certificate.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.certificate.compare import Difference
from trainer.certificate.trace_file import Direction

DIRECTION_WORDS: dict[Direction, str] = {
    "initial": "initial weight",
    "forward": "forward activation",
    "backward": "gradient of an activation",
    "gradient": "gradient of a weight",
    "update": "update of a weight",
    "before": "weight before the step",
    "final": "weight after the last step",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """Hold a scalar's differences and bounds, by step."""

    differences: Sequence[float]
    """Relative, at each step."""
    bounds: Sequence[float]

    @property
    def worst_step(self) -> int:
        """The step that is nearest to its bound, or furthest beyond it."""
        return max(range(len(self.bounds)), key=lambda step: self.differences[step] / self.bounds[step])

    @property
    def first_bad_step(self) -> int | None:
        """The first step beyond its bound."""
        return next(
            (step for step, (d, b) in enumerate(zip(self.differences, self.bounds, strict=True)) if d > b), None
        )


@dataclass(frozen=True, kw_only=True)
class TensorVerdict:
    """Hold a tensor's difference and bound."""

    direction: Direction
    name: str
    difference: float
    bound: float
    is_missing: bool

    @property
    def is_good(self) -> bool:
        """Whether it is within its bound."""
        return self.difference <= self.bound


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """Hold the first deviation of a layout from the reference."""

    step: int
    direction: Direction | None
    """None if only scalars deviate."""
    name: str
    difference: float
    bound: float
    ranks: Sequence[int]
    """Ranks whose part of the tensor deviates."""
    also: Sequence[str]
    """Other tensors beyond their bounds in the same step, in the order of computation."""
    is_missing: bool = False
    """Whether elements of it are on no rank."""

    def __str__(self) -> str:
        if self.direction is None:
            return f"step {self.step}: {self.name}"
        ranks = f" on rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}" if self.ranks else ""
        if self.is_missing:
            return f"step {self.step}, {DIRECTION_WORDS[self.direction]}: {self.name} is missing on all ranks"
        size = f"deviates by {self.difference:.1e}" if math.isfinite(self.difference) else "is not finite"
        return (
            f"step {self.step}, {DIRECTION_WORDS[self.direction]}: {self.name} {size} (bound {self.bound:.1e}){ranks}"
        )


@dataclass(frozen=True, kw_only=True)
class LayoutVerdict:
    """Hold one row of the certificate."""

    name: str
    num_processes: int
    precision: str
    engine: str
    reference: str
    """Name of the estimate of its bounds."""
    seconds: float | None
    error: str | None
    """The reason if it failed to run."""
    loss: Series | None
    grad_norm: Series | None
    parameter: TensorVerdict | None
    """The weight that is nearest to its bound, or furthest beyond it."""
    is_passed: bool
    culprit: Culprit | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Hold the results of a reference and the bounds that its perturbed runs determine."""

    name: str
    losses: Sequence[float]
    """Of the reference."""
    grad_norms: Sequence[float]
    loss_bounds: Sequence[float]
    grad_norm_bounds: Sequence[float]
    loss_spread: Sequence[float]
    """Root mean square of the perturbed runs' relative differences at each step."""
    grad_norm_spread: Sequence[float]
    factor: float
    """Bounds are this many spreads, unless a limit is lower."""
    weight_bounds: Mapping[tuple[Direction, str], float]
    device: str


def judge_tensors(
    differences: Sequence[Difference], bounds: Mapping[tuple[Direction, str], float]
) -> list[TensorVerdict]:
    """Compare each tensor's difference with its bound, which is 0 for a tensor that the reference does not have."""
    return [
        TensorVerdict(
            direction=difference.tensor.direction,
            name=difference.tensor.name,
            difference=difference.relative,
            bound=bounds.get((difference.tensor.direction, difference.tensor.name), 0.0),
            is_missing=difference.is_missing,
        )
        for difference in differences
    ]
