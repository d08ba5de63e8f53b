"""One pass over the validation set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.data.batch import MicroBatch
from trainer.data.validation import ValidationLoader


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The same on every rank."""

    loss: float
    """Mean over the target tokens, in nats; NaN where there are none."""
    num_tokens: int


def run_validation(
    loader: ValidationLoader,
    *,
    evaluate: Callable[[Sequence[MicroBatch]], tuple[float, float]],
    read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]] = lambda take: take(),
) -> ValidationResult:
    """Compute the exact mean loss over every window of the set; all ranks call this.

    Args:
        evaluate: sum of losses and number of target tokens of one global batch, as `Engine.evaluate`.
        read: takes each global batch by calling what it is given; what it raises ends the validation.
    """
    loss_sum, num_tokens = 0.0, 0.0
    steps = loader.steps()
    for _ in range(loader.num_steps):
        step_loss_sum, step_num_tokens = evaluate(read(steps.__next__))
        loss_sum += step_loss_sum
        num_tokens += step_num_tokens
    return ValidationResult(loss=loss_sum / num_tokens if num_tokens else math.nan, num_tokens=int(num_tokens))
