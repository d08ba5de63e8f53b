"""Find the first tensor, in the order of computation, that exceeds its bound."""

from collections.abc import Mapping, Sequence

from trainer.certificate.compare import Difference
from trainer.certificate.trace_file import Direction, TensorName
from trainer.certificate.verdict import Culprit, Series

MAX_NAMED = 12
"""Maximum number of other tensors that are listed after the first."""


def find_culprit(
    differences: Sequence[Difference],
    *,
    bounds: Mapping[tuple[Direction, str], float],
    step: int,
    grad_norm: Series | None,
) -> Culprit | None:
    """Find the first tensor of one step that exceeds its bound.

    Args:
        differences: of every tensor of the step.
        bounds: without those of tensors that the reference does not have.
        grad_norm: of the layout.
    Returns:
        None if all are within their bounds.
    """
    ordered = sorted(differences, key=lambda difference: _place(difference.tensor))
    bad = [difference for difference in ordered if difference.relative > _bound(difference, bounds)]
    if not bad:
        return None
    if grad_norm is not None and _only_the_norm_is_off(differences, bad, grad_norm.differences[step]):
        return Culprit(
            step=step,
            direction=None,
            name=f"the gradient norm deviates by {grad_norm.differences[step]:.1e}, and all gradients by this factor:"
            " either the norm is summed incorrectly, or the gradients are scaled as a whole",
            difference=grad_norm.differences[step],
            bound=grad_norm.bounds[step],
            ranks=(),
            also=(),
        )
    first = bad[0]
    worst = max(first.by_rank.values(), default=0.0)
    ranks = [rank for rank, relative in first.by_rank.items() if relative > 0 and relative >= worst / 2]
    return Culprit(
        step=step,
        direction=first.tensor.direction,
        name=first.tensor.name,
        difference=first.relative,
        bound=_bound(first, bounds),
        ranks=[] if first.is_missing else ranks,
        also=[f"{other.tensor.direction}: {other.tensor.name}" for other in bad[1 : 1 + MAX_NAMED]],
        is_missing=first.is_missing,
    )


def _bound(difference: Difference, bounds: Mapping[tuple[Direction, str], float]) -> float:
    return bounds.get((difference.tensor.direction, difference.tensor.name), 0.0)


def _place(tensor: TensorName) -> tuple[int, ...]:
    """Return a sort key: forward through the layers; back, each layer's activations before its weights; updates."""
    layer, place = tensor.order
    if tensor.direction == "forward":
        return (0, layer, place)
    if tensor.direction == "backward":
        return (1, -layer, 0, -place)
    if tensor.direction == "gradient":
        return (1, -layer, 1, place)
    return (2, layer, place)


def _only_the_norm_is_off(differences: Sequence[Difference], bad: Sequence[Difference], norm: float) -> bool:
    """Return whether all weight gradients deviate as much as the norm, and no activation or its gradient does."""
    gradients = [difference for difference in differences if difference.tensor.direction == "gradient"]
    num_bad = sum(difference.tensor.direction == "gradient" for difference in bad)
    is_alone = all(difference.tensor.direction in ("gradient", "update") for difference in bad)
    return is_alone and num_bad == len(gradients) and all(0.5 < g.relative / norm < 2 for g in gradients if norm)
