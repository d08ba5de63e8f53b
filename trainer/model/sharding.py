"""Where each local parameter lies in the model that no layout cuts: the names and offsets of one checkpoint identity."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class ParameterBlock:
    """A consecutive run of a local parameter that is one rectangle of a global tensor.

    Most parameters are one block; SwiGLU's first matrix is two (gate and up), each cut by tensor parallelism.
    """

    key: str
    """Name of the global tensor: the same under every layout."""
    global_shape: tuple[int, ...]
    """Shape of the global tensor (a leading layer axis included where Megatron-Core stacks layers)."""
    global_offset: tuple[int, ...]
    """Where this rectangle starts in it."""
    local_shape: tuple[int, ...]
    """Shape of the rectangle, without the leading stacked axes."""
    flat_start: int
    """First element of this block in the flattened local parameter."""

    @property
    def num_stacked_axes(self) -> int:
        """Leading axes of the global tensor that this parameter has one index of."""
        return len(self.global_shape) - len(self.local_shape)


@dataclass(frozen=True, kw_only=True)
class ShardedParameter:
    """A local parameter and its place in the global model."""

    name: str
    """Name in the local module list, for messages."""
    parameter: nn.Parameter
    blocks: tuple[ParameterBlock, ...]
    is_main_replica: bool
    """False where another model-parallel rank holds the same values and is the one that saves them
    (norms under tensor parallelism, the copy of a tied embedding). Data-parallel copies do not count."""
