"""Map each local parameter to its place in the unsharded model: checkpoint name and offset, equal for every layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt.gpt_model import GPTModel


@dataclass(frozen=True, kw_only=True)
class ParameterBlock:
    """Hold a consecutive part of a local parameter that is one rectangle of a global tensor.

    Most parameters are one block; SwiGLU's first matrix is two (gate and up), each sharded by tensor parallelism.
    """

    key: str
    """Name of the global tensor: the same under every layout."""
    global_shape: tuple[int, ...]
    """Shape of the global tensor (with a leading layer axis if Megatron-Core stacks layers)."""
    global_offset: tuple[int, ...]
    """Offset of this rectangle in it."""
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
    """Hold a local parameter with its place in the global model."""

    name: str
    """Name in the local module list, for messages."""
    parameter: torch.Tensor
    """The parameter, or a buffer that is saved as one."""
    blocks: tuple[ParameterBlock, ...]
    is_main_replica: bool
    """False if another model-parallel rank holds the same values and saves them (norms under tensor parallelism, the
    copy of a tied embedding). Data-parallel replicas do not count."""


def describe_parameters(chunks: Sequence[GPTModel]) -> list[ShardedParameter]:
    """Find the place of every parameter of this process's model chunks in the global model.

    The places come from Megatron-Core's own `sharded_state_dict`, which knows tensor, pipeline and expert sharding.
    """
    described = []
    for index, chunk in enumerate(chunks):
        entries = _find_entries(chunk)
        for name, parameter in chunk.named_parameters():
            described.append(_describe(f"chunk{index}.{name}", parameter, entries[id(parameter)]))
    return described


def describe_trained(chunks: Sequence[GPTModel]) -> list[ShardedParameter]:
    """Find the place of every parameter that is not frozen."""
    return [sharded for sharded in describe_parameters(chunks) if sharded.parameter.requires_grad]


def describe_frozen(chunks: Sequence[GPTModel]) -> list[ShardedParameter]:
    """Find the place of every frozen parameter."""
    return [sharded for sharded in describe_parameters(chunks) if not sharded.parameter.requires_grad]


def describe_buffers(chunks: Sequence[GPTModel]) -> list[ShardedParameter]:
    """Find the place of every saved tensor that no gradient updates, such as the biases of routers."""
    described = []
    for index, chunk in enumerate(chunks):
        entries = _find_entries(chunk)
        for name, buffer in chunk.named_buffers():
            if id(buffer) in entries:
                described.append(_describe(f"chunk{index}.{name}", buffer, entries[id(buffer)]))
    return described


def _find_entries(chunk: GPTModel) -> dict[int, ShardedTensor | ShardedTensorFactory]:
    """Return Megatron-Core's description of each saved tensor of a chunk, by the tensor's identity."""
    metadata = {"non_homogeneous_layers": chunk.has_unequal_layers, "dp_cp_group": chunk.pg_collection.dp_cp}
    return {
        id(entry.data): entry
        for entry in _leaves(chunk.sharded_state_dict(metadata=metadata))
        if isinstance(entry, ShardedTensor | ShardedTensorFactory) and entry.data is not None
    }


def _describe(name: str, parameter: torch.Tensor, entry: ShardedTensor | ShardedTensorFactory) -> ShardedParameter:
    tensors = list(_leaves(entry.build())) if isinstance(entry, ShardedTensorFactory) else [entry]
    blocks, flat_start = [], 0
    for tensor in tensors:
        blocks.append(
            ParameterBlock(
                key=tensor.key,
                global_shape=tuple(tensor.global_shape),
                global_offset=tuple(tensor.global_offset),
                local_shape=tuple(tensor.data.shape),
                flat_start=flat_start,
            )
        )
        flat_start += tensor.data.numel()
    assert flat_start == parameter.numel(), f"{name}: blocks cover {flat_start} of {parameter.numel()} elements"
    # The last component of a replica id counts data-parallel copies, the others model-parallel ones.
    is_main = all(part == 0 for part in tensors[0].replica_id[:-1])
    return ShardedParameter(name=name, parameter=parameter, blocks=tuple(blocks), is_main_replica=is_main)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree
