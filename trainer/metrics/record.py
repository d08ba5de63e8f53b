"""Records of training steps, validations and rollbacks; their field names are those of metrics.jsonl."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trireme.records import LayerRouting, RankTimes


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Hold the metrics of one optimizer step, over all ranks."""

    kind: ClassVar[str] = "train"

    step: int
    """Optimizer steps taken, including this one."""
    loss: float
    """Mean over the target tokens of the global batch, in nats."""
    learning_rate: float
    grad_norm: float
    """Global L2 norm before clipping."""
    tokens_per_second: float
    step_time_seconds: float
    model_tflops_per_device: float
    """Floating-point operations of the model (without recomputation) per second and device, in 10^12."""
    mfu: float | None
    """Model FLOP/s utilization: share of the device's bf16 peak; None if the peak is unknown."""
    consumed_samples: int
    """Sequences of the global order that are consumed, including those that a rollback skipped."""
    consumed_tokens: int
    memory_bytes: int
    """Peak memory allocated on the device of rank 0; on CPU, the resident memory of its process."""
    is_skipped: bool
    """Whether the update was skipped because the gradient was not finite."""
    num_skipped_steps: int
    """Skipped steps since the start of the run, including this one."""
    loss_scale: float | None
    """Factor of the loss in the backward pass; None unless the weights are fp16."""
    routing: tuple[LayerRouting, ...] | None = None
    """Routing of each mixture-of-experts layer; None for a dense model. See `routing_fields`."""
    rank_times: RankTimes | None = None
    """The slowest rank; None at steps in which ranks are not compared."""


@dataclass(frozen=True, kw_only=True)
class ValidationMetrics:
    """Hold the metrics of one validation."""

    kind: ClassVar[str] = "validation"

    step: int
    """Optimizer steps taken."""
    loss: float
    """Mean over the target tokens, in nats."""
    num_tokens: int
    """Target tokens of the mean."""
    consumed_samples: int
    consumed_tokens: int
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of a task, by name, such as accuracy."""
    is_of_tokens: bool = True
    """Whether the loss is that of predicted tokens, whose exponential is the perplexity."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, kw_only=True)
class EvaluationMetrics:
    """Hold the scores of the evaluation suite on the weights of a step."""

    kind: ClassVar[str] = "evaluation"

    step: int
    """Optimizer steps taken."""
    scores: Mapping[str, float]
    """By task and score, such as cloze_en_acc."""
    seconds: float
    """Time that it took."""
    num_items: int
    consumed_samples: int
    consumed_tokens: int


@dataclass(frozen=True, kw_only=True)
class RollbackMetrics:
    """Hold the record of a rollback to an earlier step."""

    kind: ClassVar[str] = "rollback"

    step: int
    """Optimizer steps taken in the state that training continues from; later ones are repeated."""
    from_step: int
    """Optimizer steps taken before the rollback."""
    trouble: str
    """Kind of the anomaly: not_finite, loss_spike or grad_norm_spike."""
    skipped_samples: list[list[int]]
    """Ranges (first, end) of samples that are skipped from now on; empty if the same samples are read again."""
    consumed_samples: int

    @property
    def num_skipped_samples(self) -> int:
        """Number of skipped samples."""
        return sum(end - first for first, end in self.skipped_samples)


Metrics = StepMetrics | ValidationMetrics | EvaluationMetrics | RollbackMetrics


def fields_of(metrics: Metrics) -> dict[str, Any]:
    """Return every field by name, in order, with a validation's perplexity and the routing of experts."""
    fields = dataclasses.asdict(metrics)
    if isinstance(metrics, StepMetrics):
        del fields["routing"], fields["rank_times"]
        if metrics.routing:
            fields |= routing_fields(metrics.routing)
        if metrics.rank_times:
            fields |= dataclasses.asdict(metrics.rank_times)
    elif isinstance(metrics, ValidationMetrics):
        del fields["scores"], fields["is_of_tokens"]
        fields |= {"perplexity": metrics.perplexity} if metrics.is_of_tokens else {}
        fields |= metrics.scores
    elif isinstance(metrics, EvaluationMetrics):
        fields |= fields.pop("scores")
    return fields


def routing_fields(routing: Sequence[LayerRouting]) -> dict[str, Any]:
    """Return the routing of experts as fields of a record.

    Returns:
        moe_load_balancing_loss, moe_z_loss: means over layers; None if they are off.
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
