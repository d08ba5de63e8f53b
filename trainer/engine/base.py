"""Define the engine: one optimizer step on one back end, and its state."""

from collections.abc import Callable, Sequence
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
    """Hold the result of one optimizer step, the same values on every rank."""

    loss: float
    """Mean over the global batch's targets, in nats; NaN if it has none."""
    grad_norm: float
    """Global L2 norm before clipping."""
    is_skipped: bool
    """True if the update was skipped: a gradient was not finite, or the batch has no target tokens."""
    has_targets: bool = True
    """False if the loss mask covers all tokens of the global batch."""
    loss_scale: float | None
    """Factor of the loss in this step's backward pass; None unless the weights are fp16."""
    routing: tuple[LayerRouting, ...] | None = None
    """Routing of each mixture-of-experts layer; None for a dense model."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFragment:
    """Hold the part of one parameter whose fp32 master weights and moments this rank owns."""

    sharded: ShardedParameter
    flat_start: int
    """First element of the fragment in the flattened local parameter."""
    num_elements: int
    states: dict[str, torch.Tensor]
    """`OPTIMIZER_STATES` -> 1-D fp32 views of num_elements; writing into them changes the engine's state. Tensors that
    no gradient updates have "param" only."""
    is_owner: bool
    """False if another data-parallel rank holds the same fragment and saves it (ZeRO-0)."""


class Engine(Protocol):
    """Train a model on one back end. Both back ends run Megatron-Core's schedule through `trainer.engine.forward`."""

    def train_step(
        self, micro_batches: Sequence[MicroBatch], *, learning_rate: float, skip_update: bool = False
    ) -> StepResult:
        """Run forward and backward over this rank's micro batches, then one update.

        Args:
            skip_update: skip the update, as if a gradient had not been finite.
        """
        # The five parts of a step, in the order in which they run on every rank:
        # 1. Prepare: zero the gradient buffers (Megatron-Core; DeepSpeed does it at the end of its last update), and
        #    free copies of optimizer state that a save has left.
        # 2. Run Megatron-Core's pipeline schedule, forward and backward of every micro batch. The loss is weighted so
        #    that the mean of the gradients over data-parallel ranks is the gradient of the global batch's mean loss per
        #    target token (`trainer.engine.forward.forward_backward`).
        # 3. Sum gradients over the data-parallel ranks, and over the model-parallel ranks that hold the same weight
        #    (`trainer.engine.gradients`): at the end of the schedule with Megatron-Core; with ZeRO-0 and ZeRO-1, over
        #    data-parallel ranks only in part 4; with ZeRO-2 and ZeRO-3, during every backward pass. Then sum the losses
        #    and the routing of experts over all ranks, for the result.
        # 4. Update: set the learning rate, compute the global gradient norm, clip, let AdamW update the fp32 master
        #    weights, and copy them into the model. If the norm is not finite, the weights stay as they are.
        # 5. Account: count the update, adapt the loss scale, and return the result (`ScheduleEngine._account`).
        ...

    def evaluate(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        observe: Callable[[torch.Tensor, MicroBatch], None] | None = None,
    ) -> tuple[float, float]:
        """Return the sum of losses and the number of targets of the global batch, the same on every rank.

        Args:
            observe: receives the model's output of each micro batch on the last pipeline stage.
        """
        ...

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        """Return this rank's optimizer state for a checkpoint; moments exist, and are zero before step 1."""
        ...

    @property
    def num_updates(self) -> int:
        """Number of updates of the weights: Adam's step count."""
        ...

    @property
    def loss_scale(self) -> LossScaleState | None:
        """State of the loss scale after the last step; None unless the weights are fp16."""
        ...

    def restore(self, *, num_updates: int, loss_scale: LossScaleState | None = None) -> None:
        """Update the model's weights from the fragments, which a loader has written in place.

        Args:
            loss_scale: of the saved run; None starts with the configured one. Used with fp16 weights only.
        """
        ...

    def close(self) -> None:
        """Release the back end's resources."""
        ...
