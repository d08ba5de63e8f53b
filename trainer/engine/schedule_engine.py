"""Share between back ends the chunks that Megatron-Core's schedule runs, the count of updates and the loss scale."""

import math
from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection

from trainer.config.optim import PrecisionConfig
from trainer.data.micro_batch import MicroBatch
from trainer.engine.base import LossScaleState, StepResult
from trainer.engine.expert_bias import update_expert_biases
from trainer.engine.forward import PREDICT_NEXT, LossSum, Observe, evaluate_step, forward_backward
from trainer.engine.loss_scale import build_loss_scale
from trainer.engine.objective import Objective


class ScheduleEngine:
    """Implement the part of the engine protocol that is the same for all back ends."""

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        precision: PrecisionConfig,
        groups: ProcessGroupCollection,
        device: torch.device,
        objective: Objective = PREDICT_NEXT,
    ) -> None:
        self._chunks = chunks
        self._objective = objective
        self._groups = groups
        self._device = device
        self._num_updates = 0
        self._loss_scale = build_loss_scale(precision)

    def evaluate(self, micro_batches: Sequence[MicroBatch], *, observe: Observe | None = None) -> tuple[float, float]:
        """Return the sum of losses and the number of targets of the global batch; see `Engine.evaluate`."""
        return evaluate_step(
            self._chunks,
            micro_batches,
            groups=self._groups,
            device=self._device,
            objective=self._objective.for_validation(),
            observe=observe,
        )

    @property
    def num_updates(self) -> int:
        """Number of updates of the weights: Adam's step count."""
        return self._num_updates

    @property
    def loss_scale(self) -> LossScaleState | None:
        """State of the loss scale after the last step; None unless the weights are fp16."""
        return self._loss_scale.state if self._loss_scale else None

    def _run_schedule(self, micro_batches: Sequence[MicroBatch], *, skip_update: bool) -> LossSum:
        """Run forward and backward over this rank's micro batches, in training mode."""
        for chunk in self._chunks:
            chunk.train()
        return forward_backward(
            self._chunks,
            micro_batches,
            groups=self._groups,
            device=self._device,
            forward_only=False,
            skip_update=skip_update,
            objective=self._objective,
        )

    def _account(self, losses: LossSum, *, grad_norm: float, is_skipped: bool) -> StepResult:
        """Count a step, adapt the loss scale, and return the step's result."""
        scale = self._loss_scale.value if self._loss_scale else None
        has_targets = losses.num_tokens > 0
        self._num_updates += not is_skipped
        if not is_skipped:
            update_expert_biases(self._chunks, losses.routing)
        if self._loss_scale and has_targets:
            self._loss_scale.update(is_skipped=is_skipped)
        return StepResult(
            loss=losses.loss_sum / losses.num_tokens if has_targets else math.nan,
            grad_norm=grad_norm if has_targets else 0.0,
            is_skipped=is_skipped,
            has_targets=has_targets,
            loss_scale=scale,
            routing=losses.routing,
        )

    def _restore_account(self, *, num_updates: int, loss_scale: LossScaleState | None) -> None:
        """Restore the count of updates and the loss scale from a checkpoint."""
        self._num_updates = num_updates
        if self._loss_scale and loss_scale:
            self._loss_scale.restore(loss_scale)
