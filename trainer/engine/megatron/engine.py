"""The Megatron-Core back end: its data parallelism and its optimizers around all model chunks of this pipeline stage.

Gradients are in flat buffers, in fp32 for weights of any data type, and buckets of them are reduced while the last
backward pass still runs. The distributed optimizer owns an equal part of each bucket on every data-parallel rank.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer.optimizer import FP32Optimizer
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed, nn

from trainer.config.engine import MegatronEngineConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.data.micro_batch import MicroBatch
from trainer.engine.base import LossScaleState, OptimizerFragment, StepResult
from trainer.engine.expert_bias import expert_bias_fragments
from trainer.engine.forward import PREDICT_NEXT
from trainer.engine.gradients import reduce_over_model_parallel
from trainer.engine.megatron.optimizer import build_optimizer
from trainer.engine.objective import Objective
from trainer.engine.optimizer import adam_state, clip_factor, scale_in_step, sum_of_squares
from trainer.engine.schedule_engine import ScheduleEngine
from trainer.model.sharding import describe_trained


class MegatronEngine(ScheduleEngine):
    """Train with overlapped gradient reduction and sharded or replicated optimizer state, under every layout."""

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        config: MegatronEngineConfig,
        optimizer: OptimizerConfig,
        precision: PrecisionConfig,
        groups: ProcessGroupCollection,
        device: torch.device,
        objective: Objective = PREDICT_NEXT,
    ) -> None:
        super().__init__(chunks, precision=precision, groups=groups, device=device, objective=objective)
        self._clip_grad = optimizer.clip_grad
        parameters = describe_trained(chunks)
        self._wrapped = _wrap(chunks, config=config, precision=precision, groups=groups)
        self._optimizer, self._owned = build_optimizer(
            self._wrapped, parameters, config=config, optimizer=optimizer, groups=groups
        )
        # The schedule runs the bare chunks: the wrapper works through hooks on their parameters and modules.
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = self._finalize_gradients
            chunk.config.grad_scale_func = self._loss_scale.multiply if self._loss_scale else None
            if config.overlap_grad_reduce:
                contexts = [wrapped.no_sync for wrapped in self._wrapped]
                chunk.config.no_sync_func = contexts if len(contexts) > 1 else contexts[0]

    def train_step(
        self, micro_batches: Sequence[MicroBatch], *, learning_rate: float, skip_update: bool = False
    ) -> StepResult:
        """Run forward and backward over this rank's micro batches, then one update; see `Engine.train_step`."""
        for wrapped in self._wrapped:
            wrapped.zero_grad_buffer()
        losses = self._run_schedule(micro_batches, skip_update=skip_update)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm, is_skipped = self._update(self._loss_scale.value if self._loss_scale else 1.0)
        return self._account(losses, grad_norm=grad_norm, is_skipped=is_skipped)

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        """Return this rank's optimizer state for a checkpoint; moments exist, and are zero before step 1."""
        fragments = []
        for owned in self._owned:
            state = adam_state(owned.adamw, owned.main)
            fragments.append(
                OptimizerFragment(
                    sharded=owned.sharded,
                    flat_start=owned.flat_start,
                    num_elements=owned.main.numel(),
                    states={
                        "param": owned.main.detach().view(-1),
                        "exp_avg": state["exp_avg"].view(-1),
                        "exp_avg_sq": state["exp_avg_sq"].view(-1),
                    },
                    is_owner=owned.is_owner,
                )
            )
        return fragments + expert_bias_fragments(self._chunks, groups=self._groups)

    @torch.no_grad()
    def restore(self, *, num_updates: int, loss_scale: LossScaleState | None = None) -> None:
        """Update the model's weights from the fragments, which a loader has written in place."""
        self._restore_account(num_updates=num_updates, loss_scale=loss_scale)
        for owned in self._owned:
            adam_state(owned.adamw, owned.main)["step"].fill_(float(num_updates))
        for part in self._optimizer.chained_optimizers:
            if not isinstance(part, FP32Optimizer):  # whose fragments are the weights themselves
                part._copy_main_params_to_model_params()
        for wrapped in self._wrapped:
            if wrapped.ddp_config.use_distributed_optimizer:
                wrapped.start_param_sync(force_sync=True)

    def close(self) -> None:
        """Do nothing: no resource has to be released."""

    def _finalize_gradients(self, *args: Any, **kwargs: Any) -> None:
        """Sum gradients over ranks; the schedule calls this after the last backward pass of a step."""
        for wrapped in self._wrapped:
            wrapped.finish_grad_sync()
        reduce_over_model_parallel(
            self._chunks, config=self._chunks[0].config, groups=self._groups, gradient_of=_accumulated_gradient
        )

    @torch.no_grad()
    def _update(self, scale: float) -> tuple[float, bool]:
        """Clip by the global norm and update, unless that norm is not finite.

        Args:
            scale: factor of all gradients.
        Returns:
            The norm, and whether the update was skipped.
        """
        self._optimizer.prepare_grads()
        counted = [o.gradient for o in self._owned if o.is_owner and o.sharded.is_main_replica]
        squares = sum_of_squares(counted, device=self._device)
        distributed.all_reduce(squares)
        grad_norm = float(squares.sqrt()) / scale
        is_skipped = not math.isfinite(grad_norm)
        if not is_skipped:
            factor = clip_factor(grad_norm, clip_grad=self._clip_grad) / scale
            for adamw in dict.fromkeys(owned.adamw for owned in self._owned):
                scale_in_step(adamw, factor)
            self._optimizer.step_with_ready_grads()
        for owned in self._owned:
            owned.main.grad = None
        return grad_norm, is_skipped


def _wrap(
    chunks: Sequence[GPTModel],
    *,
    config: MegatronEngineConfig,
    precision: PrecisionConfig,
    groups: ProcessGroupCollection,
) -> list[DistributedDataParallel]:
    """Add gradient buffers to the chunks' parameters, and hooks that reduce a bucket as soon as it is complete."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=precision.grad_accumulation_dtype == "fp32",
        overlap_grad_reduce=config.overlap_grad_reduce,
        overlap_param_gather=config.overlap_param_gather,
        use_distributed_optimizer=config.use_distributed_optimizer,
        bucket_size=config.bucket_size,
    )
    return [
        DistributedDataParallel(
            chunk.config,
            settings,
            chunk,
            # Communication of later chunks overlaps with the backward passes of earlier ones; one bucket is enough.
            disable_bucketing=index > 0,
            pg_collection=groups,
        )
        for index, chunk in enumerate(chunks)
    ]


def _accumulated_gradient(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.main_grad  # type: ignore[attr-defined]
