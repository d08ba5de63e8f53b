"""Configure DeepSpeed: its settings, its process groups, and the host's requirements for NVMe offload."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trainer.config.optim import OptimizerConfig
from trireme.errors import Violation

if TYPE_CHECKING:
    # Checks of inputs import this module before Megatron-Core may be imported.
    from megatron.core.process_groups_config import ProcessGroupCollection


def check_nvme_host(config: EngineConfig) -> list[Violation]:
    """Check the directory of NVMe offload, and the library that DeepSpeed's asynchronous I/O is compiled against."""
    if not isinstance(config, DeepSpeedEngineConfig) or config.offload_optimizer != "nvme" or config.nvme_path is None:
        return []
    violations = []
    path = Path(config.nvme_path)
    if not path.is_dir() or not os.access(path, os.W_OK):
        message = "must be a writable directory"
        fix = "Create it on every host, or use another one."
        violations.append(Violation(path="engine.nvme_path", value=path, message=message, fix=fix))
    # Importing DeepSpeed takes seconds, and only these runs need it before they start.
    from deepspeed.ops.op_builder import AsyncIOBuilder  # noqa: PLC0415

    if not AsyncIOBuilder().is_compatible(verbose=False):
        message = "requires libaio with its headers, which the C++ compiler does not find on this host"
        fix = "Install libaio-dev (Debian) or libaio-devel (Red Hat) on every host, or use cpu."
        violations.append(Violation(path="engine.offload_optimizer", value="nvme", message=message, fix=fix))
    return violations


def deepspeed_settings(
    config: DeepSpeedEngineConfig, optimizer: OptimizerConfig, *, dtype: torch.dtype
) -> dict[str, Any]:
    """Translate the configuration into DeepSpeed's.

    Args:
        dtype: of the weights.
    """
    is_bf16, is_fp16 = dtype is torch.bfloat16, dtype is torch.float16
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # ZeRO-0 clips in GuardedAdamW, which also skips updates that are not finite.
        "gradient_clipping": optimizer.clip_grad if config.zero_stage > 0 else 0.0,
        # torch's fused AdamW also updates offloaded state on the CPU; DeepSpeed's own would have to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero_settings(config),
        "bf16": {"enabled": is_bf16, "immediate_grad_update": True},
        # A constant scale: the engine sets it before each step.
        "fp16": {"enabled": is_fp16, "loss_scale": 1.0},
    }
    if is_bf16 or is_fp16:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"  # DeepSpeed would round the sums to the weights' data type
    return settings


def _zero_settings(config: DeepSpeedEngineConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": config.reduce_bucket_size,
        "allgather_bucket_size": config.allgather_bucket_size,
        "overlap_comm": config.overlap_comm,
        "contiguous_gradients": True,
    }
    if config.offload_optimizer != "none":
        settings["offload_optimizer"] = {
            "device": config.offload_optimizer,
            "pin_memory": config.offload_pin_memory,
            "nvme_path": config.nvme_path,
        }
    if config.zero_stage == 3:
        settings["stage3_param_persistence_threshold"] = config.param_persistence_threshold
        settings["stage3_prefetch_bucket_size"] = config.prefetch_bucket_size
        # It would replace torch.nn.functional.linear in the whole process; Megatron-Core's linear layers do the same.
        settings["memory_efficient_linear"] = False
    return settings


class ModelParallelUnit:
    """Provide the process groups under DeepSpeed's names.

    Data parallel means data and context parallel here: context-parallel ranks hold the same weights.
    """

    def __init__(self, groups: "ProcessGroupCollection") -> None:
        self._groups = groups

    def get_data_parallel_group(self) -> distributed.ProcessGroup:
        """Return the group of ranks that hold the same weights."""
        return self._groups.dp_cp

    def get_data_parallel_rank(self) -> int:
        """Return this rank's number among those that hold the same weights."""
        return self._groups.dp_cp.rank()

    def get_data_parallel_world_size(self) -> int:
        """Return the number of ranks that hold the same weights."""
        return self._groups.dp_cp.size()

    def get_model_parallel_group(self) -> distributed.ProcessGroup:
        """Return the group of ranks that hold one model."""
        return self._groups.mp

    def get_model_parallel_rank(self) -> int:
        """Return this rank's number among those that hold one model."""
        return self._groups.mp.rank()

    def get_model_parallel_world_size(self) -> int:
        """Return the number of ranks that hold one model."""
        return self._groups.mp.size()

    def get_tensor_model_parallel_group(self) -> distributed.ProcessGroup:
        """Return the group of ranks that hold one pipeline stage."""
        return self._groups.tp

    def get_tensor_model_parallel_rank(self) -> int:
        """Return this rank's number among those that hold one pipeline stage."""
        return self._groups.tp.rank()

    def get_tensor_model_parallel_world_size(self) -> int:
        """Return the number of ranks that hold one pipeline stage."""
        return self._groups.tp.size()

    def get_tensor_model_parallel_src_rank(self) -> int:
        """Return the global rank of the first rank that holds this pipeline stage."""
        return distributed.get_global_rank(self._groups.tp, 0)

    def get_pipeline_model_parallel_group(self) -> distributed.ProcessGroup:
        """Return the group of ranks of one pipeline."""
        return self._groups.pp

    def get_pipeline_model_parallel_world_size(self) -> int:
        """Return the number of pipeline stages."""
        return self._groups.pp.size()
