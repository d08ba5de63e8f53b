"""The DeepSpeed back end: ZeRO around all model chunks of this pipeline stage.

DeepSpeed never runs the forward pass: Megatron-Core's schedule runs the bare chunks, and `engine.step()` clips and
updates (`managed_gradient_accumulation=False`). Stages 0 and 1 leave gradients in the chunks and reduce them over
data-parallel ranks in that call. Stages 2 and 3 reduce each bucket during every backward pass and keep only this rank's
part, and stage 3 gathers a module's weights before it runs and releases them afterwards, all by hooks.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.data.micro_batch import MicroBatch
from trainer.engine.base import LossScaleState, OptimizerFragment, StepResult
from trainer.engine.deepspeed.settings import ModelParallelUnit, deepspeed_settings
from trainer.engine.deepspeed.zero_state import build_zero_state
from trainer.engine.expert_bias import expert_bias_fragments
from trainer.engine.forward import PREDICT_NEXT
from trainer.engine.gradients import reduce_over_model_parallel, reduce_partial_gradients_as_computed
from trainer.engine.objective import Objective
from trainer.engine.optimizer import GuardedAdamW, build_adamw
from trainer.engine.schedule_engine import ScheduleEngine
from trainer.model.sharding import describe_trained
from trireme.logging import printed_to_log

# DeepSpeed calls collectives by deprecated names, and torch would warn at every call.
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
# A shared-memory all-reduce for CPU inference, compiled at the first start; training never calls it.
deepspeed.ops.__compatible_ops__.pop("deepspeed_shm_comm", None)
if not torch.cuda.is_available():
    # It checks whether oneDNN has fp16 kernels for this processor; torch's own kernels always exist and suffice.
    get_accelerator().is_fp16_supported = lambda: True


class DeepSpeedEngine(ScheduleEngine):
    """Train with ZeRO-0 and ZeRO-1 under every layout, with ZeRO-2 and ZeRO-3 under those of one pipeline stage."""

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        config: DeepSpeedEngineConfig,
        optimizer: OptimizerConfig,
        precision: PrecisionConfig,
        groups: ProcessGroupCollection,
        device: torch.device,
        objective: Objective = PREDICT_NEXT,
    ) -> None:
        super().__init__(chunks, precision=precision, groups=groups, device=device, objective=objective)
        # Described while they have their shapes: stage 3 empties parameters.
        parameters = describe_trained(chunks)
        for sharded in parameters:
            # Each weight counts once in the gradient norm: DeepSpeed counts what is marked `model_parallel`, and on the
            # first rank of a model what is not; below stage 3 it excludes what is marked as replicated.
            sharded.parameter.model_parallel = sharded.is_main_replica  # type: ignore[attr-defined]
            sharded.parameter.ds_pipe_replicated = not sharded.is_main_replica  # type: ignore[attr-defined]
        adamw = (
            GuardedAdamW(parameters, config=optimizer, model_parallel_group=groups.mp)
            if config.zero_stage == 0
            else build_adamw(parameters, config=optimizer, model_parallel_group=groups.mp)
        )
        self._reduces_in_backward = config.zero_stage >= 2
        if self._reduces_in_backward:
            assert len(chunks) == 1, "ZeRO-2 and ZeRO-3 do not support pipeline parallelism"
            reduce_partial_gradients_as_computed(chunks, config=chunks[0].config, groups=groups)
        with printed_to_log("deepspeed"):  # in bf16 it prints the used memory four times and more
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                # Stage 3 must see the module that is called.
                model=chunks[0] if self._reduces_in_backward else _all_of(chunks, adamw=adamw),
                optimizer=adamw,
                mpu=ModelParallelUnit(groups),
                config=deepspeed_settings(config, optimizer, dtype=chunks[0].config.params_dtype),
                dist_init_required=False,
            )
        self._state = build_zero_state(
            self._optimizer, adamw=adamw, parameters=parameters, groups=groups, zero_stage=config.zero_stage
        )
        # With one rank the reduction would only copy every gradient into a flat buffer and back. From stage 1 on it is
        # needed anyway: it passes the gradients to the optimizer (except for bf16 at stage 1, which has another class).
        needs_reduction = config.zero_stage >= 1 and not isinstance(self._optimizer, BF16_Optimizer)
        self._engine.enable_backward_allreduce = groups.dp_cp.size() > 1 or needs_reduction
        if self._reduces_in_backward:
            chunks[0].register_forward_pre_hook(self._before_forward)
            chunks[0].register_forward_hook(self._after_forward)
        if self._has_fp32_accumulators:
            for sharded in parameters:
                sharded.parameter.register_post_accumulate_grad_hook(self._optimizer._fill_param_grad_accum_attribute)
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = self._finalize_gradients
            chunk.config.grad_scale_func = self._loss_scale.multiply if self._loss_scale else None

    def train_step(
        self, micro_batches: Sequence[MicroBatch], *, learning_rate: float, skip_update: bool = False
    ) -> StepResult:
        """Run forward and backward over this rank's micro batches, then one update; see `Engine.train_step`."""
        self._state.release_copies()
        losses = self._run_schedule(micro_batches, skip_update=skip_update)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._loss_scale:
            self._optimizer.loss_scale = self._loss_scale.value
        self._engine.step()
        return self._account(
            losses,
            grad_norm=float(self._engine.get_global_grad_norm()),
            is_skipped=bool(self._optimizer.overflow),
        )

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        """Return this rank's optimizer state for a checkpoint; moments exist, and are zero before step 1."""
        return self._state.fragments() + expert_bias_fragments(self._chunks, groups=self._groups)

    def restore(self, *, num_updates: int, loss_scale: LossScaleState | None = None) -> None:
        """Update the model's weights from the fragments, which a loader has written in place."""
        self._restore_account(num_updates=num_updates, loss_scale=loss_scale)
        self._state.restore(num_updates=num_updates)

    def close(self) -> None:
        """Release DeepSpeed's resources."""
        self._engine.destroy()

    @property
    def _has_fp32_accumulators(self) -> bool:
        """Whether `parameter.grad_accum` accumulates the gradients of micro batches in fp32, for fp16 weights."""
        return getattr(self._optimizer, "use_grad_accum_attribute", False)

    def _before_forward(self, *args: Any) -> None:
        """Do what DeepSpeed's own forward pass does first."""
        self._optimizer.clear_backward_seen_flag()

    def _after_forward(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Notify DeepSpeed when a backward pass begins; it detects its end on its own."""
        if output.requires_grad:
            output.register_hook(lambda _: self._engine._backward_prologue())

    def _finalize_gradients(self, *args: Any, **kwargs: Any) -> None:
        """Sum gradients over model-parallel ranks; the schedule calls this after the last backward pass of a step."""
        if self._reduces_in_backward:
            return
        reduce_over_model_parallel(
            self._chunks, config=self._chunks[0].config, groups=self._groups, gradient_of=_accumulated_gradient
        )


def _all_of(chunks: Sequence[GPTModel], *, adamw: torch.optim.Optimizer) -> nn.ModuleList:
    """Return one module of the chunks and the optimizer's placeholders for kinds of parameters of other stages only."""
    module = nn.ModuleList(chunks)
    own = {id(parameter) for parameter in module.parameters()}
    others = [one for group in adamw.param_groups for one in group["params"] if id(one) not in own]
    for number, placeholder in enumerate(others):
        placeholder.model_parallel, placeholder.ds_pipe_replicated = False, True  # no part of the gradient norm
        module.register_parameter(f"placeholder_{number}", placeholder)
    return module


def _accumulated_gradient(parameter: nn.Parameter) -> torch.Tensor | None:
    """Return DeepSpeed's accumulated gradient: an fp32 copy for bf16 weights, otherwise `parameter.grad`."""
    for attribute in ("_hp_grad", "grad_accum"):
        gradient = getattr(parameter, attribute, None)
        if gradient is not None:
            return gradient
    return parameter.grad
