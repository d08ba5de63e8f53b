"""Which back end takes the optimizer step: the `engine` group, one dataclass per back end."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic


@dataclass(frozen=True, kw_only=True)
class DeepSpeedEngineConfig:
    """DeepSpeed ZeRO around Megatron-Core's pipeline schedules."""

    name: Literal["deepspeed"] = "deepspeed"
    """Selects this back end."""
    zero_stage: int = 1
    """What is sharded over data-parallel ranks: 0 nothing, 1 optimizer state."""
    reduce_bucket_size: int = 500_000_000
    """Elements reduced in one collective."""
    allgather_bucket_size: int = 500_000_000
    """Elements gathered in one collective."""
    overlap_comm: bool = False
    """Overlap gradient reduction with the backward pass."""


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
