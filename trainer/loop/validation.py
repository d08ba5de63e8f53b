"""One pass over the validation set."""

from dataclasses import dataclass

from trainer.data.validation import ValidationLoader
from trainer.engine.base import Engine


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The same on every rank."""

    loss: float
    """Mean over the target tokens, in nats."""
    num_tokens: int


def run_validation(engine: Engine, loader: ValidationLoader) -> ValidationResult:
    """Compute the exact mean loss over every window of the set; all ranks call this."""
    loss_sum, num_tokens = 0.0, 0.0
    for micro_batches in loader.steps():
        step_loss_sum, step_num_tokens = engine.evaluate(micro_batches)
        loss_sum += step_loss_sum
        num_tokens += step_num_tokens
    return ValidationResult(loss=loss_sum / max(num_tokens, 1.0), num_tokens=int(num_tokens))
