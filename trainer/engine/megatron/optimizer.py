"""Build Megatron-Core's optimizers around torch's AdamW, and find the part of each parameter that this rank updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.grad_scaler import ConstantGradScaler
from megatron.core.optimizer.optimizer import (
    ChainedOptimizer,
    Float16OptimizerWithFloat16Params,
    FP32Optimizer,
    MegatronOptimizer,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed

from trainer.config.engine import MegatronEngineConfig
from trainer.config.optim import OptimizerConfig
from trainer.engine.optimizer import build_adamw
from trainer.model.sharding import ShardedParameter
from trainer.parallel import cpu_shim


@dataclass(frozen=True, kw_only=True)
class Owned:
    """Hold the part of one parameter that this rank updates."""

    sharded: ShardedParameter
    main: torch.Tensor
    """fp32 weights that AdamW updates: a flat part of the parameter, or all of it."""
    flat_start: int
    """First element of the part in the flattened local parameter."""
    adamw: torch.optim.AdamW
    is_owner: bool
    """False if another data-parallel rank holds the same part and saves it."""

    @property
    def gradient(self) -> torch.Tensor:
        """fp32 gradient of `main`, summed over all ranks and micro batches."""
        assert self.main.grad is not None, f"{self.sharded.name} has no gradient"
        return self.main.grad


def build_optimizer(
    wrapped: Sequence[DistributedDataParallel],
    parameters: Sequence[ShardedParameter],
    *,
    config: MegatronEngineConfig,
    optimizer: OptimizerConfig,
    groups: ProcessGroupCollection,
) -> tuple[ChainedOptimizer, list[Owned]]:
    """Build one optimizer for the weights that all data-parallel ranks share, and one for experts."""
    dense = [sharded for sharded in parameters if _is_dense(sharded)]
    experts = [sharded for sharded in parameters if not _is_dense(sharded)]
    parts: list[MegatronOptimizer] = []
    owned: list[Owned] = []
    for members, buffers, group in (
        (dense, [chunk.buffers for chunk in wrapped], groups.dp_cp),
        (experts, [chunk.expert_parallel_buffers for chunk in wrapped], groups.expt_dp),
    ):
        if not members:
            continue
        adamw = build_adamw(members, config=optimizer)
        with cpu_shim.cuda_type_names():
            part = _build_part(adamw, wrapped, buffers, config=config, group=group, groups=groups)
        parts.append(part)
        owned += _find_owned(part, members, adamw=adamw, is_first_rank=group.rank() == 0)
    return ChainedOptimizer(parts), owned


def _build_part(
    adamw: torch.optim.AdamW,
    wrapped: Sequence[DistributedDataParallel],
    buffers: Sequence[list[Any]],
    *,
    config: MegatronEngineConfig,
    group: distributed.ProcessGroup,
    groups: ProcessGroupCollection,
) -> MegatronOptimizer:
    """Build the optimizer of an AdamW over fp32 master weights, of a part of each bucket or of everything."""
    dtype = wrapped[0].config.params_dtype
    settings = MegatronOptimizerConfig(
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        params_dtype=dtype,
        use_distributed_optimizer=config.use_distributed_optimizer,
    )
    # Megatron-Core requires a scaler for fp16. Separate scalers could diverge: the engine's own scales all parts.
    scaler = ConstantGradScaler(1.0) if dtype is torch.float16 else None
    if config.use_distributed_optimizer:
        part = DistributedOptimizer(
            adamw,
            settings,
            scaler,
            None,
            model_chunks=list(wrapped),
            per_model_buffers=dict(enumerate(buffers)),
            data_parallel_group=group,
            data_parallel_group_gloo=None,
            data_parallel_group_idx=groups.mp.rank(),
            distributed_optimizer_instance_id=0,
        )
    elif dtype is torch.float32:
        part = FP32Optimizer(adamw, settings, None)
    else:
        part = Float16OptimizerWithFloat16Params(adamw, settings, scaler, None)
    # The ranks on which it checks for gradients that are not finite: those with this part, since a stage may have no
    # experts. The engine, which decides, checks all.
    part.grad_stats_parallel_group = groups.tp_dp_cp
    return part


def _find_owned(
    part: MegatronOptimizer, members: Sequence[ShardedParameter], *, adamw: torch.optim.AdamW, is_first_rank: bool
) -> list[Owned]:
    """Find the part of each parameter that this rank's optimizer holds; none if another rank has all of it."""
    owned = []
    for sharded in members:
        parameter = sharded.parameter
        if not isinstance(part, DistributedOptimizer):
            main = getattr(parameter, "main_param", parameter)
            owned.append(Owned(sharded=sharded, main=main, flat_start=0, adamw=adamw, is_owner=is_first_rank))
        elif parameter in part.model_param_group_index_map:
            group_index, index = part.model_param_group_index_map[parameter]
            owned.append(
                Owned(
                    sharded=sharded,
                    main=adamw.param_groups[group_index]["params"][index],
                    flat_start=part._get_model_param_range_map(parameter)["param"].start,
                    adamw=adamw,
                    is_owner=True,
                )
            )
    return owned


def _is_dense(sharded: ShardedParameter) -> bool:
    """Return whether all data-parallel ranks hold the parameter: Megatron-Core marks those of experts otherwise."""
    return getattr(sharded.parameter, "allreduce", True)
