"""The DeepSpeed back end: ZeRO around all model chunks of this pipeline stage.

DeepSpeed never runs the forward pass: Megatron-Core's schedule runs the bare chunks and leaves gradients in them, and
`engine.step()` reduces them over data-parallel ranks, clips and updates (`managed_gradient_accumulation=False`).
"""

from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed, nn

from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.data.batch import MicroBatch
from trainer.engine.base import OPTIMIZER_STATES, LossScaleState, OptimizerFragment, StepResult
from trainer.engine.forward import evaluate_step, forward_backward
from trainer.engine.gradients import reduce_over_model_parallel
from trainer.engine.loss_scale import build_loss_scale
from trainer.engine.optimizer import GuardedAdamW, adam_state, build_adamw
from trainer.model.sharding import describe_parameters

# A shared-memory all-reduce for CPU inference, compiled at the first start; training never calls it.
deepspeed.ops.__compatible_ops__.pop("deepspeed_shm_comm", None)
if not torch.cuda.is_available():
    # It asks whether oneDNN has fp16 kernels for this processor; torch's own, which are always there, are enough.
    get_accelerator().is_fp16_supported = lambda: True


class DeepSpeedEngine:
    """ZeRO-0 and ZeRO-1 for every layout that Megatron-Core's schedules run."""

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        config: DeepSpeedEngineConfig,
        optimizer: OptimizerConfig,
        precision: PrecisionConfig,
        groups: ProcessGroupCollection,
        device: torch.device,
    ) -> None:
        self._chunks = chunks
        self._groups = groups
        self._device = device
        self._num_updates = 0
        self._loss_scale = build_loss_scale(precision)
        self._zero_stage = config.zero_stage
        self._parameters = describe_parameters(chunks)
        for sharded in self._parameters:
            # DeepSpeed's gradient norm counts what is `model_parallel` and not replicated: each weight once.
            sharded.parameter.model_parallel = True  # type: ignore[attr-defined]
            sharded.parameter.ds_pipe_replicated = not sharded.is_main_replica  # type: ignore[attr-defined]
        self._adamw = (
            GuardedAdamW(self._parameters, config=optimizer, model_parallel_group=groups.mp)
            if self._zero_stage == 0
            else build_adamw(self._parameters, config=optimizer)
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=nn.ModuleList(chunks),
            optimizer=self._adamw,
            mpu=_ModelParallelUnit(groups),
            config=_deepspeed_settings(
                config, optimizer, zero_stage=self._zero_stage, dtype=chunks[0].config.params_dtype
            ),
            dist_init_required=False,
        )
        # Over one rank the reduction would only copy every gradient into a flat buffer and back. Stage 1 needs it all
        # the same: there it hands the gradients to the optimizer (but for bf16, which is another class of DeepSpeed's).
        is_handed_over = self._zero_stage == 1 and chunks[0].config.params_dtype is not torch.bfloat16
        self._engine.enable_backward_allreduce = groups.dp_cp.size() > 1 or is_handed_over
        if self._accumulates_beside_weights:
            for sharded in self._parameters:
                sharded.parameter.register_post_accumulate_grad_hook(self._optimizer._fill_param_grad_accum_attribute)
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = self._finalize_gradients
            chunk.config.grad_scale_func = self._loss_scale.multiply if self._loss_scale else None

    def train_step(self, micro_batches: Sequence[MicroBatch], *, learning_rate: float) -> StepResult:
        """Forward and backward over this rank's micro batches, then one update."""
        for chunk in self._chunks:
            chunk.train()
        losses = forward_backward(
            self._chunks, micro_batches, groups=self._groups, device=self._device, forward_only=False
        )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        scale = self._loss_scale.value if self._loss_scale else None
        if scale is not None:
            self._optimizer.loss_scale = scale
        self._engine.step()
        is_skipped = bool(self._optimizer.overflow)
        self._num_updates += not is_skipped
        if self._loss_scale:
            self._loss_scale.update(is_skipped=is_skipped)
        return StepResult(
            loss=losses.loss_sum / losses.num_tokens,
            grad_norm=float(self._engine.get_global_grad_norm()),
            is_skipped=is_skipped,
            loss_scale=scale,
        )

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, float]:
        """Sum of losses and number of target tokens over the global batch, the same on every rank."""
        return evaluate_step(self._chunks, micro_batches, groups=self._groups, device=self._device)

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        """Everything of the optimizer that a checkpoint holds on this rank; moments exist (zero before step 1)."""
        if self._zero_stage == 0:
            return [self._whole_parameter(sharded) for sharded in self._parameters]
        self._link_optimizer_state()
        fragments = []
        for sharded in self._parameters:
            mapping = sharded.parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:  # another data-parallel rank owns all of it
                continue
            address = mapping.lp_fragment_address
            states = {"param": mapping.hp_fragment, **mapping.optim_fragment}
            fragments.append(
                OptimizerFragment(
                    sharded=sharded,
                    flat_start=address.start,
                    num_elements=address.numel,
                    states={name: states[name].detach().view(-1)[: address.numel] for name in OPTIMIZER_STATES},
                    is_owner=True,
                )
            )
        return fragments

    @property
    def num_updates(self) -> int:
        """Updates that reached the weights: Adam's step count."""
        return self._num_updates

    @property
    def loss_scale(self) -> LossScaleState | None:
        """Where the loss scale stands after the last step; None unless the weights are fp16."""
        return self._loss_scale.state if self._loss_scale else None

    def restore(self, *, num_updates: int, loss_scale: LossScaleState | None = None) -> None:
        """Make the fragments' contents, written in place by a loader, the weights of the model."""
        self._num_updates = num_updates
        if self._loss_scale and loss_scale:
            self._loss_scale.restore(loss_scale)
        for group in self._adamw.param_groups:
            for parameter in group["params"]:
                adam_state(self._adamw, parameter)["step"].fill_(float(num_updates))
        if self._zero_stage > 0:
            self._optimizer.update_lp_params()

    def close(self) -> None:
        """Release what DeepSpeed holds."""
        self._engine.destroy()

    @property
    def _accumulates_beside_weights(self) -> bool:
        """Whether `parameter.grad_accum` takes the gradient of each micro batch, in fp32 beside fp16 weights."""
        return getattr(self._optimizer, "use_grad_accum_attribute", False)

    def _finalize_gradients(self, *args: Any, **kwargs: Any) -> None:
        """Called by the schedule after the last backward pass of a step."""
        reduce_over_model_parallel(
            self._chunks, config=self._chunks[0].config, groups=self._groups, gradient_of=_accumulated_gradient
        )

    def _whole_parameter(self, sharded: Any) -> OptimizerFragment:
        parameter = sharded.parameter
        state = adam_state(self._adamw, parameter)
        return OptimizerFragment(
            sharded=sharded,
            flat_start=0,
            num_elements=parameter.numel(),
            states={
                "param": parameter.detach().view(-1),
                "exp_avg": state["exp_avg"].view(-1),
                "exp_avg_sq": state["exp_avg_sq"].view(-1),
            },
            is_owner=self._groups.dp_cp.rank() == 0,
        )

    def _link_optimizer_state(self) -> None:
        """DeepSpeed ties fragments to Adam's moments after its first step, and then for its first group only."""
        for group in self._adamw.param_groups:
            for parameter in group["params"]:
                adam_state(self._adamw, parameter)
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()


class _ModelParallelUnit:
    """The process groups under the names by which DeepSpeed asks for them.

    Data-parallel means data and context parallel here: context-parallel ranks hold the same weights.
    """

    def __init__(self, groups: ProcessGroupCollection) -> None:
        self._groups = groups

    def get_data_parallel_group(self) -> distributed.ProcessGroup:
        return self._groups.dp_cp

    def get_data_parallel_rank(self) -> int:
        return self._groups.dp_cp.rank()

    def get_data_parallel_world_size(self) -> int:
        return self._groups.dp_cp.size()

    def get_model_parallel_group(self) -> distributed.ProcessGroup:
        return self._groups.mp

    def get_model_parallel_rank(self) -> int:
        return self._groups.mp.rank()

    def get_model_parallel_world_size(self) -> int:
        return self._groups.mp.size()

    def get_tensor_model_parallel_group(self) -> distributed.ProcessGroup:
        return self._groups.tp

    def get_tensor_model_parallel_rank(self) -> int:
        return self._groups.tp.rank()

    def get_tensor_model_parallel_world_size(self) -> int:
        return self._groups.tp.size()

    def get_tensor_model_parallel_src_rank(self) -> int:
        return distributed.get_global_rank(self._groups.tp, 0)

    def get_pipeline_model_parallel_group(self) -> distributed.ProcessGroup:
        return self._groups.pp

    def get_pipeline_model_parallel_world_size(self) -> int:
        return self._groups.pp.size()


def _deepspeed_settings(
    config: DeepSpeedEngineConfig, optimizer: OptimizerConfig, *, zero_stage: int, dtype: torch.dtype
) -> dict[str, Any]:
    is_bf16, is_fp16 = dtype is torch.bfloat16, dtype is torch.float16
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # ZeRO-0 clips in GuardedAdamW, which also guards against what is not finite.
        "gradient_clipping": optimizer.clip_grad if zero_stage > 0 else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": config.reduce_bucket_size,
            "allgather_bucket_size": config.allgather_bucket_size,
            "overlap_comm": config.overlap_comm,
            "contiguous_gradients": True,
        },
        "bf16": {"enabled": is_bf16, "immediate_grad_update": True},
        # A constant scale: the engine sets it before each step.
        "fp16": {"enabled": is_fp16, "loss_scale": 1.0},
    }
    if is_bf16 or is_fp16:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"  # DeepSpeed would round the sums to the weights' format
    return settings


def _accumulated_gradient(parameter: nn.Parameter) -> torch.Tensor | None:
    """Where DeepSpeed accumulates: fp32 copies beside bf16 weights, otherwise `parameter.grad`."""
    for attribute in ("_hp_grad", "grad_accum"):
        gradient = getattr(parameter, attribute, None)
        if gradient is not None:
            return gradient
    return parameter.grad
