"""What leaves a step: the numbers of one training step and of one validation."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trireme.records import LayerRouting, RankTimes


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One optimizer step, over all ranks."""

    kind: ClassVar[str] = "train"

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Mean over the target tokens of the global batch, in nats."""
    learning_rate: float
    grad_norm: float
    """Global L2 norm before clipping."""
    tokens_per_second: float
    step_time_seconds: float
    model_tflops_per_device: float
    """Floating-point operations that the model needs (no recomputation) per second and device, in 10^12."""
    mfu: float | None
    """Share of the device's bf16 peak that the model's operations reach; None where the peak is unknown."""
    consumed_samples: int
    """Sequences that are behind in the global order; those that a rollback left out are among them."""
    consumed_tokens: int
    memory_bytes: int
    """Most that was allocated on the device of rank 0; on CPU the resident memory of its process."""
    is_skipped: bool
    """Whether a non-finite gradient kept the update from the weights."""
    num_skipped_steps: int
    """Such steps since the start of the run, this one included."""
    loss_scale: float | None
    """Factor of the loss in the backward pass; None unless the weights are fp16."""
    routing: tuple[LayerRouting, ...] | None = None
    """What each mixture-of-experts layer did; None where no layer has experts. See `routing_fields`."""
    rank_times: RankTimes | None = None
    """The slowest rank; None at steps after which ranks are not compared."""


@dataclass(frozen=True, kw_only=True)
class ValidationMetrics:
    """One pass over validation batches."""

    kind: ClassVar[str] = "validation"

    step: int
    """Optimizer steps done."""
    loss: float
    """Mean over the target tokens, in nats."""
    num_tokens: int
    """Target tokens that the mean is over."""
    consumed_samples: int
    consumed_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, kw_only=True)
class RollbackMetrics:
    """Training went wrong and goes on from an earlier step."""

    kind: ClassVar[str] = "rollback"

    step: int
    """Optimizer steps done in the state that training goes on from; later ones are taken again."""
    from_step: int
    """Optimizer steps done before."""
    trouble: str
    """What went wrong: not_finite, loss_spike or grad_norm_spike."""
    skipped_samples: list[list[int]]
    """Ranges (first, end) of samples that are left out from now on; none where the same ones are taken again."""
    consumed_samples: int

    @property
    def num_skipped_samples(self) -> int:
        """How many samples these are."""
        return sum(end - first for first, end in self.skipped_samples)


def fields_of(metrics: StepMetrics | ValidationMetrics | RollbackMetrics) -> dict[str, Any]:
    """Every field by name, in order; the perplexity of a validation; what experts did, where there are any."""
    fields = dataclasses.asdict(metrics)
    if isinstance(metrics, StepMetrics):
        del fields["routing"], fields["rank_times"]
        if metrics.routing:
            fields |= routing_fields(metrics.routing)
        if metrics.rank_times:
            fields |= dataclasses.asdict(metrics.rank_times)
    elif isinstance(metrics, ValidationMetrics):
        fields["perplexity"] = metrics.perplexity
    return fields


def routing_fields(routing: Sequence[LayerRouting]) -> dict[str, Any]:
    """What experts did, as a record has it.

    Returns:
        moe_load_balancing_loss, moe_z_loss: means over layers; None where they are off.
        moe_max_load_ratio: load of the most loaded expert of all layers over its layer's mean.
        moe_layers: one mapping per layer with all fields of `LayerRouting` and its max_load_ratio.
    """
    return {
        "moe_load_balancing_loss": _mean([layer.load_balancing_loss for layer in routing]),
        "moe_z_loss": _mean([layer.z_loss for layer in routing]),
        "moe_max_load_ratio": max(layer.max_load_ratio for layer in routing),
        "moe_layers": [{**dataclasses.asdict(layer), "max_load_ratio": layer.max_load_ratio} for layer in routing],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
