"""Define the `engine` group: one dataclass per back end of the optimizer step."""

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
    """State sharded over data-parallel ranks: 0 none, 1 optimizer state, 2 also gradients, 3 also weights.
    2 and 3 require parallel.pipeline_model_parallel_size=1."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Place of sharded optimizer state and of its update: none on the device, cpu in host memory, nvme in files, paged
    through host memory. cpu requires zero_stage 1 or more, nvme zero_stage 3."""
    nvme_path: PathText | None = None
    """Directory for offload_optimizer=nvme, on a fast disk of each host; not shared between runs."""
    offload_pin_memory: bool = True
    """Offload to page-locked memory, which makes copies faster; set false where the host limits it."""
    reduce_bucket_size: int = 500_000_000
    """Elements reduced in one collective."""
    allgather_bucket_size: int = 500_000_000
    """Elements gathered in one collective."""
    overlap_comm: bool = False
    """Overlap gradient reduction with the backward pass. Requires zero_stage 2 or 3."""
    param_persistence_threshold: int = 100_000
    """At zero_stage 3, weights of at most this many elements stay gathered on every rank."""
    prefetch_bucket_size: int = 50_000_000
    """At zero_stage 3, elements of weights prefetched before their use."""


@dataclass(frozen=True, kw_only=True)
class MegatronEngineConfig:
    """Megatron-Core's data parallelism and optimizers; every option works under every layout."""

    name: Literal["megatron"] = "megatron"
    """Selects this back end."""
    use_distributed_optimizer: bool = True
    """Shard optimizer state over data-parallel ranks (as ZeRO-1 does); false replicates it on every rank."""
    overlap_grad_reduce: bool = True
    """Reduce each bucket of gradients as soon as the last backward pass has filled it; false reduces all at the end."""
    overlap_param_gather: bool = False
    """Gather updated weights bucket by bucket during the next forward pass; false gathers them at the end of the step.
    Requires use_distributed_optimizer and overlap_grad_reduce."""
    bucket_size: int | None = None
    """Elements reduced in one collective with overlap_grad_reduce; null means 40 million, or one million
    per data-parallel rank if that is more."""


EngineConfig = Annotated[DeepSpeedEngineConfig | MegatronEngineConfig, pydantic.Discriminator("name")]
