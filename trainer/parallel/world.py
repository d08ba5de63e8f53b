"""Join the processes of a run: device, ranks and Megatron-Core's process groups."""

import datetime
import logging
import os
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import distributed

from trainer.config.parallel import ParallelConfig
from trainer.parallel.gloo_groups import forget_groups, share_groups
from trireme.cores import count_cores
from trireme.logging import EVERY_RANK
from trireme.processes import gloo_on_loopback, local_rank
from trireme.waiting import log_waiting_for

_LOGGER = logging.getLogger(__name__)

_SEEDS_APART = 1 << 20
"""Distance of seeds; larger than the offsets that Megatron-Core adds for tensor-parallel and expert-parallel ranks."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Hold this process's ranks, sizes and device; `groups` is Megatron-Core's collection."""

    device: torch.device
    rank: int
    world_size: int
    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    cp_rank: int
    cp_size: int
    dp_rank: int
    dp_size: int
    groups: ProcessGroupCollection

    @property
    def is_main_rank(self) -> bool:
        """Whether this process logs and writes the run's files."""
        return self.rank == 0


def start_world(
    parallel: ParallelConfig, *, timeout_seconds: int, seed: int, gloo_timeout_seconds: int | None = None
) -> World:
    """Join the job's processes, build the process groups of the layout, and seed the random states of dropout.

    Uses NCCL on a host with CUDA, gloo otherwise. Without torchrun's environment, the world is this process alone.

    Args:
        parallel: the layout.
        timeout_seconds: of one collective.
        seed: of dropout.
        gloo_timeout_seconds: of one gloo collective; None takes timeout_seconds.
    """
    device = _local_device()
    if device.type != "cuda" and gloo_timeout_seconds is not None:
        timeout_seconds = gloo_timeout_seconds
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > count_cores():
        torch.set_num_threads(count_cores())  # PyTorch does not know of a container's quota
    if not distributed.is_initialized():
        _init_process_group(device, datetime.timedelta(seconds=timeout_seconds))
    with share_groups():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parallel.tensor_model_parallel_size,
            pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
            context_parallel_size=parallel.context_parallel_size,
            expert_model_parallel_size=parallel.expert_model_parallel_size,
            expert_tensor_parallel_size=parallel.expert_tensor_parallel_size,
            distributed_timeout_minutes=max(1, timeout_seconds // 60),
            create_gloo_process_groups=False,
        )
    seed_dropout(seed)
    return World(
        device=device,
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=parallel.tensor_model_parallel_size,
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pp_size=parallel.pipeline_model_parallel_size,
        cp_rank=parallel_state.get_context_parallel_rank(),
        cp_size=parallel.context_parallel_size,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        groups=ProcessGroupCollection.use_mpu_process_groups(),
    )


def seed_dropout(seed: int) -> None:
    """Seed this process's random streams; the layout's groups must exist.

    Megatron-Core has two: one that tensor-parallel ranks share, for replicated tensors, and one that differs between
    them, for sharded tensors. Here both also differ between pipeline stages and between ranks that work on different
    tokens, so that no two layers or samples drop the same elements.
    """
    dp_cp_rank = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    replica = dp_cp_rank * parallel_state.get_pipeline_model_parallel_world_size()
    replica += parallel_state.get_pipeline_model_parallel_rank()
    derived = (seed + replica * _SEEDS_APART) % (2**63 - _SEEDS_APART)
    torch.manual_seed(derived)
    model_parallel_cuda_manual_seed(derived)


def end_layout() -> None:
    """Destroy the layout's groups; the processes stay joined, and `start_world` can build another layout."""
    parallel_state.destroy_model_parallel()


def stop_world() -> None:
    """Leave the process groups; the process can start another world afterwards."""
    if distributed.is_initialized():
        end_layout()
        distributed.destroy_process_group()
        forget_groups()


def _local_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    # By default, cuBLAS may sum parts of a 16-bit product in 16 bits.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return device


def _init_process_group(device: torch.device, timeout: datetime.timedelta) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        with log_waiting_for(_describe_joining(), say=_say_of_host):
            distributed.init_process_group(backend, timeout=timeout)
    else:
        # DeepSpeed refuses to start without LOCAL_RANK.
        for name, value in {"LOCAL_RANK": "0", **gloo_on_loopback()}.items():
            os.environ.setdefault(name, value)
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group(backend, timeout=timeout, rank=0, world_size=1, store=store)


def _describe_joining() -> str:
    number = os.environ.get("WORLD_SIZE", "?")
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    return f"all {number} ranks to join at {place} (rank 0 joins after it has checked the inputs)"


def _say_of_host(text: str) -> None:
    """Log on one rank of each host: another host may wait for something else."""
    if local_rank() == 0:
        _LOGGER.info("%s", text, extra=EVERY_RANK)
