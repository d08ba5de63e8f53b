"""Which back end takes the optimizer step: the `engine` group, one dataclass per back end."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class DeepSpeedEngineConfig:
    """DeepSpeed ZeRO around Megatron-Core's pipeline schedules."""

    name: Literal["deepspeed"] = "deepspeed"
    """Selects this back end."""
    zero_stage: int = 1
    """What is sharded over data-parallel ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.
    2 and 3 need parallel.pipeline_model_parallel_size=1."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where sharded optimizer state lies and is updated: none means on the device, cpu in the host's memory, nvme in
    files, a part at a time in the host's memory. cpu needs zero_stage 1 or more, nvme zero_stage 3."""
    nvme_path: PathText | None = None
    """Directory for offload_optimizer=nvme, on a fast disk of each host; each run needs one of its own."""
    offload_pin_memory: bool = True
    """Offload into page-locked memory, which devices copy to and from faster; false where the host limits it."""
    reduce_bucket_size: int = 500_000_000
    """Elements reduced in one collective."""
    allgather_bucket_size: int = 500_000_000
    """Elements gathered in one collective."""
    overlap_comm: bool = False
    """Overlap gradient reduction with the backward pass. Needs zero_stage 2 or 3."""
    param_persistence_threshold: int = 100_000
    """At zero_stage 3, weights of at most so many elements stay gathered on every rank."""
    prefetch_bucket_size: int = 50_000_000
    """At zero_stage 3, elements of weights gathered ahead of their use."""


@dataclass(frozen=True, kw_only=True)
class MegatronEngineConfig:
    """Megatron-Core's data parallelism and optimizers; every option works under every layout."""

    name: Literal["megatron"] = "megatron"
    """Selects this back end."""
    use_distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks (as ZeRO-1 does); false keeps a copy on every rank."""
    overlap_grad_reduce: bool = True
    """Reduce a bucket of gradients as soon as the last backward pass has filled it; false reduces all at the end."""
    overlap_param_gather: bool = False
    """Gather updated weights bucket by bucket during the next forward pass; false gathers them at the end of the step.
    Needs use_distributed_optimizer and overlap_grad_reduce."""
    bucket_size: int | None = None
    """Elements reduced in one collective with overlap_grad_reduce; null means 40 million, or a million per
    data-parallel rank where that is more."""


EngineConfig = Annotated[DeepSpeedEngineConfig | MegatronEngineConfig, pydantic.Discriminator("name")]
