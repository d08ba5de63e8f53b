"""Split flat optimizer fragments into chunks of the global tensors that a checkpoint holds.

A fragment is a flat range of a local parameter; torch.distributed.checkpoint stores rectangular chunks. A flat range of
a row-major block of n axes is at most 2n - 1 chunks, each of them a view: nothing is gathered and nothing copied.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from trainer.engine.base import OptimizerFragment
from trainer.model.sharding import ShardedParameter

WEIGHTS_PREFIX = "model."
STATE_PREFIXES = {"param": WEIGHTS_PREFIX, "exp_avg": "optimizer.exp_avg.", "exp_avg_sq": "optimizer.exp_avg_sq."}
"""Prefix of a parameter's key, by the name of its state in a fragment."""
MAX_SAVED_ELEMENTS = 2**24
"""Largest chunk written, 64 MiB of fp32. A reader loads whole chunks, so this bounds the extra memory of a rank that
needs a small part of a large one."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Hold a rectangular part of a row-major block that is contiguous in memory."""

    offset: tuple[int, ...]
    """Where it starts in the block."""
    shape: tuple[int, ...]
    """With as many axes as the block."""
    flat_start: int
    """Its first element in the flattened block."""

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def cut_flat_range(start: int, end: int, *, shape: Sequence[int], max_elements: int | None = None) -> Iterator[Chunk]:
    """Split elements [start, end) of a flattened row-major block into chunks, in order.

    Args:
        start: first element.
        end: one past the last element.
        shape: of the block.
        max_elements: size limit of a chunk; None sets no limit.
    """
    if max_elements is None:
        yield from _cut(start, end, tuple(shape), 0)
        return
    # Split at multiples of whole rows if a row fits, so that the limit adds no thin chunks.
    row = next(size for axis in range(len(shape) + 1) if (size := math.prod(shape[axis:])) <= max_elements)
    stride = max_elements // row * row
    for bound in range(start // stride * stride, end, stride):
        yield from _cut(max(start, bound), min(end, bound + stride), tuple(shape), 0)


def _cut(start: int, end: int, shape: tuple[int, ...], base: int) -> Iterator[Chunk]:
    """Split [start, end) of a block of `shape` whose first element is number `base` of the outermost block."""
    if start >= end:
        return
    if len(shape) <= 1:
        yield Chunk(offset=(start,)[: len(shape)], shape=(end - start,)[: len(shape)], flat_start=base + start)
        return
    row = math.prod(shape[1:])
    first_row, last_row = start // row, (end - 1) // row
    whole_start, whole_end = -(-start // row), end // row
    if first_row == last_row and end - start < row:
        yield from _within_row(first_row, start, end, shape, base)
        return
    if start % row:
        yield from _within_row(first_row, start, whole_start * row, shape, base)
    if whole_end > whole_start:
        yield Chunk(
            offset=(whole_start,) + (0,) * (len(shape) - 1),
            shape=(whole_end - whole_start, *shape[1:]),
            flat_start=base + whole_start * row,
        )
    if end % row:
        yield from _within_row(last_row, whole_end * row, end, shape, base)


def _within_row(index: int, start: int, end: int, shape: tuple[int, ...], base: int) -> Iterator[Chunk]:
    row_start = index * math.prod(shape[1:])
    for part in _cut(start - row_start, end - row_start, shape[1:], base + row_start):
        yield Chunk(offset=(index, *part.offset), shape=(1, *part.shape), flat_start=part.flat_start)


class ShardedTensorView:
    """Hold this rank's part of one global tensor: chunks that are views of local memory.

    Implements torch.distributed.checkpoint's protocol for sharded tensors, as DTensor does.
    """

    def __init__(self, global_shape: Sequence[int], *, dtype: torch.dtype) -> None:
        self.global_shape = torch.Size(global_shape)
        self.dtype = dtype
        self.views: list[torch.Tensor] = []
        self._offsets: list[torch.Size] = []
        self._position: dict[torch.Size, int] = {}

    def add(self, offset: Sequence[int], view: torch.Tensor) -> None:
        """Add the chunk at `offset` of the global tensor; `view` has as many axes as that tensor."""
        self._position[torch.Size(offset)] = len(self.views)
        self._offsets.append(torch.Size(offset))
        self.views.append(view)

    @property
    def num_elements(self) -> int:
        """Number of elements in all chunks."""
        return sum(view.numel() for view in self.views)

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(offsets=offset, sizes=view.size())
            for offset, view in zip(self._offsets, self.views, strict=True)
        ]

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        properties = TensorProperties(dtype=self.dtype)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.global_shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        hint, offset = index.index, index.offset
        assert offset is not None, f"{index.fqn} was asked for without an offset"
        # A reader's hint counts this rank's chunks and distinguishes two copies of one (tied weights in one process);
        # a writer's counts those of all ranks.
        if hint is not None and hint < len(self._offsets) and self._offsets[hint] == offset:
            return self.views[hint]
        return self.views[self._position[offset]]


def pieces_to_save(fragments: Iterable[OptimizerFragment]) -> dict[str, ShardedTensorView]:
    """Return what this rank writes of its engine's state; of several copies, one rank writes one."""
    pieces: dict[str, ShardedTensorView] = {}
    for fragment in fragments:
        if is_written_here(fragment):
            _add_fragment(pieces, fragment, max_elements=MAX_SAVED_ELEMENTS)
    return pieces


def is_written_here(fragment: OptimizerFragment) -> bool:
    """Return whether this rank saves the fragment, of which other ranks may hold copies."""
    return fragment.is_owner and fragment.sharded.is_main_replica


def pieces_to_load(
    fragments: Iterable[OptimizerFragment], *, states: Collection[str] = tuple(STATE_PREFIXES)
) -> dict[str, ShardedTensorView]:
    """Return what this rank reads into its engine's state.

    Args:
        fragments: of this rank.
        states: keys of `STATE_PREFIXES`; `param` alone leaves the optimizer's moments as they are.
    """
    pieces: dict[str, ShardedTensorView] = {}
    for fragment in fragments:
        chosen = {name: values for name, values in fragment.states.items() if name in states}
        _add_fragment(pieces, replace(fragment, states=chosen), max_elements=None)
    return pieces


def weights_to_load(parameters: Iterable[ShardedParameter]) -> dict[str, ShardedTensorView]:
    """Return the model's parameters, of any data type: the reader casts."""
    pieces: dict[str, ShardedTensorView] = {}
    for sharded in parameters:
        values = sharded.parameter.data.view(-1)
        _add_range(pieces, WEIGHTS_PREFIX, sharded=sharded, values=values, flat_start=0, max_elements=None)
    return pieces


def _add_fragment(
    pieces: dict[str, ShardedTensorView], fragment: OptimizerFragment, *, max_elements: int | None
) -> None:
    assert set(fragment.states) in (set(STATE_PREFIXES), {"param"}), (
        f"{fragment.sharded.name}: {fragment.states.keys()}"
    )
    for state, values in fragment.states.items():
        prefix = STATE_PREFIXES[state]
        assert values.shape == (fragment.num_elements,) and values.dtype == torch.float32
        _add_range(
            pieces,
            prefix,
            sharded=fragment.sharded,
            values=values,
            flat_start=fragment.flat_start,
            max_elements=max_elements,
        )


def _add_range(
    pieces: dict[str, ShardedTensorView],
    prefix: str,
    *,
    sharded: ShardedParameter,
    values: torch.Tensor,
    flat_start: int,
    max_elements: int | None,
) -> None:
    """Add `values`, the elements of the flattened local parameter from flat_start on."""
    flat_end = flat_start + values.numel()
    for block in sharded.blocks:
        block_end = block.flat_start + math.prod(block.local_shape)
        start, end = max(flat_start, block.flat_start), min(flat_end, block_end)
        if start >= end:
            continue
        target = pieces.setdefault(prefix + block.key, ShardedTensorView(block.global_shape, dtype=values.dtype))
        stacked = block.num_stacked_axes
        for part in cut_flat_range(
            start - block.flat_start, end - block.flat_start, shape=block.local_shape, max_elements=max_elements
        ):
            first = block.flat_start + part.flat_start - flat_start
            inner = (base + shift for base, shift in zip(block.global_offset[stacked:], part.offset, strict=True))
            view = values[first : first + part.num_elements].view((1,) * stacked + part.shape)
            target.add((*block.global_offset[:stacked], *inner), view)
