"""Which back end takes the optimizer step: the `engine` group, one dataclass per back end."""

from dataclasses import dataclass
from typing import Literal


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


EngineConfig = DeepSpeedEngineConfig
