"""What an engine is: one optimizer step on one back end, and the state behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer.data.micro_batch import MicroBatch
from trainer.model.sharding import ShardedParameter
from trireme.records import LayerRouting
from trireme.records import LossScaleState as LossScaleState

OPTIMIZER_STATES = ("param", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One optimizer step, the same values on every rank."""

    loss: float
    """Mean over the global batch's target tokens, in nats; NaN where it has none."""
    grad_norm: float
    """Global L2 norm before clipping."""
    is_skipped: bool
    """True when the update was kept from the weights: a gradient was not finite, or nothing was to be learned."""
    has_targets: bool = True
    """False where the loss mask leaves no token of the global batch."""
    loss_scale: float | None
    """Factor of the loss in this step's backward pass; None unless the weights are fp16."""
    routing: tuple[LayerRouting, ...] | None = None
    """What each mixture-of-experts layer did; None where no layer has experts."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFragment:
    """The part of one parameter whose fp32 master weights and moments this rank owns."""

    sharded: ShardedParameter
    flat_start: int
    """First element of the fragment in the flattened local parameter."""
    num_elements: int
    states: dict[str, torch.Tensor]
    """`OPTIMIZER_STATES` -> 1-D fp32 views of num_elements; writing into them changes the engine's state."""
    is_owner: bool
    """False where another data-parallel rank holds the same fragment and is the one that saves it (ZeRO-0)."""


class Engine(Protocol):
    """One back end. Both run Megatron-Core's schedule through `trainer.engine.forward`."""

    def train_step(
        self, micro_batches: Sequence[MicroBatch], *, learning_rate: float, skip_update: bool = False
    ) -> StepResult:
        """Forward and backward over this rank's micro batches, then one update.

        Args:
            skip_update: leave the update out, as if a gradient had not been finite.
        """
        ...

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, float]:
        """Sum of losses and number of target tokens over the global batch, the same on every rank."""
        ...

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        """Everything of the optimizer that a checkpoint holds on this rank; moments exist (zero before step 1)."""
        ...

    @property
    def num_updates(self) -> int:
        """Updates that reached the weights: Adam's step count."""
        ...

    @property
    def loss_scale(self) -> LossScaleState | None:
        """Where the loss scale stands after the last step; None unless the weights are fp16."""
        ...

    def restore(self, *, num_updates: int, loss_scale: LossScaleState | None = None) -> None:
        """Make the fragments' contents, written in place by a loader, the weights of the model.

        Args:
            loss_scale: of the run that saved; None begins with the configured one. Used with fp16 weights alone.
        """
        ...

    def close(self) -> None:
        """Release what the back end holds."""
        ...
