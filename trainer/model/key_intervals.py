"""Build masks of attention in which every query sees one interval of keys, [first, last].

b: batch, S: sequence, q: queries, k: keys.

Causal attention, documents in a sequence, sliding windows, attention to both sides, padding and caches of unequal
lengths are all of this form, and `first` and `last` ascend along a sequence. Intervals are known per query, so a mask
does not depend on the keys, and a rank needs the intervals of its own queries only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

BLOCK_SIZE = 128
"""Queries and keys of one tile of FlexAttention, its own default."""


@dataclass(frozen=True, kw_only=True)
class KeyIntervals:
    """Hold the keys that each query attends to: all from `first` to `last`, both included."""

    first: torch.Tensor
    """[b, q] integers, ascending along q; at least 0."""
    last: torch.Tensor
    """[b, q] integers, ascending along q; below the number of keys, and at least `first`."""


def find_intervals(
    starts: torch.Tensor,
    *,
    first_query: int,
    num_queries: int,
    window: int | None = None,
    is_causal: bool = True,
) -> KeyIntervals:
    """Find the intervals of consecutive queries, for keys that are the positions of the same sequence.

    Args:
        starts: [b, S] integers, the beginning of each position's document.
        first_query: position of the first query.
        window: keys that a query sees before itself, itself included, and without causality as many after it; None
            does not limit them.
        is_causal: queries see no key after themselves; otherwise all of their document.
    """
    here = slice(first_query, first_query + num_queries)
    positions = torch.arange(here.start, here.stop, device=starts.device, dtype=starts.dtype)[None]
    first = starts[:, here]
    last = positions.expand_as(first) if is_causal else find_document_ends(starts)[:, here]
    if window is not None:
        first = torch.maximum(first, positions - (window - 1))
        if not is_causal:
            last = torch.minimum(last, positions + (window - 1))
    return KeyIntervals(first=first.contiguous(), last=last.contiguous())


def find_document_ends(starts: torch.Tensor) -> torch.Tensor:
    """[b, S] beginnings of documents to the last position of each position's document."""
    positions = torch.arange(starts.shape[1], device=starts.device, dtype=starts.dtype)
    is_last = functional.pad(starts[:, 1:] != starts[:, :-1], (0, 1), value=True)
    ends = torch.where(is_last, positions, starts.shape[1])
    return ends.flip(1).cummin(dim=1).values.flip(1)


class IntervalMasks:
    """Cache the masks that the layers of one model chunk share, until the next micro batch."""

    def __init__(self) -> None:
        self._starts: torch.Tensor | None = None
        self._kept: dict[tuple[Any, ...], torch.Tensor | BlockMask] = {}

    def dense(
        self,
        *,
        starts: torch.Tensor,
        first_query: int,
        num_queries: int,
        num_keys: int,
        dtype: torch.dtype,
        window: int | None = None,
        is_causal: bool = True,
    ) -> torch.Tensor:
        """Return the mask that is added to scores: 0 where a query attends to a key, minus infinity elsewhere.

        scaled_dot_product_attention would convert a boolean mask to the same, and keep one for each layer.

        Args:
            num_keys: keys are the first positions of the sequence.
            dtype: of the queries.
        The others are those of `find_intervals`.

        Returns:
            [b, 1, q, k].
        """

        def build(intervals: KeyIntervals) -> torch.Tensor:
            mask = build_dense_mask(intervals, num_keys=num_keys)
            return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)

        mask = self._find(
            ("dense", dtype, num_keys),
            build,
            starts,
            first_query=first_query,
            num_queries=num_queries,
            window=window,
            is_causal=is_causal,
        )
        assert isinstance(mask, torch.Tensor)
        return mask

    def blocks(
        self,
        *,
        starts: torch.Tensor,
        first_query: int,
        num_queries: int,
        num_keys: int,
        window: int | None = None,
        is_causal: bool = True,
    ) -> BlockMask:
        """Return the same mask for FlexAttention: which tiles have work, and which of them need no mask inside."""

        def build(intervals: KeyIntervals) -> BlockMask:
            return build_block_mask(intervals, num_keys=num_keys)

        mask = self._find(
            ("blocks", num_keys),
            build,
            starts,
            first_query=first_query,
            num_queries=num_queries,
            window=window,
            is_causal=is_causal,
        )
        assert isinstance(mask, BlockMask)
        return mask

    def _find(
        self,
        kind: tuple[Any, ...],
        build: Callable[[KeyIntervals], torch.Tensor | BlockMask],
        starts: torch.Tensor,
        **queries: Any,
    ) -> torch.Tensor | BlockMask:
        # The stored tensor keeps its memory, so an equal address means the same tensor, even if activation recompute
        # passes it on as another object.
        if self._starts is None or self._starts.data_ptr() != starts.data_ptr() or self._starts.shape != starts.shape:
            self._starts, self._kept = starts, {}
        key = (*kind, *queries.values())
        if key not in self._kept:
            self._kept[key] = build(find_intervals(starts, **queries))
        return self._kept[key]


def build_dense_mask(intervals: KeyIntervals, *, num_keys: int) -> torch.Tensor:
    """Return True where a query attends to a key: [b, 1, q, k]."""
    keys = torch.arange(num_keys, device=intervals.first.device)
    return ((keys >= intervals.first[..., None]) & (keys <= intervals.last[..., None]))[:, None]


def build_block_mask(intervals: KeyIntervals, *, num_keys: int) -> BlockMask:
    """Return the same for FlexAttention.

    Tiles are classified by the ends of their ranges, since intervals ascend along a sequence: work of (S / 128)**2,
    while FlexAttention's own create_block_mask checks all S**2 pairs.
    """
    first, last = intervals.first, intervals.last
    num_queries = first.shape[1]
    num_rows, num_columns = -(-num_queries // BLOCK_SIZE), -(-num_keys // BLOCK_SIZE)
    lowest_first, highest_first = _tile_ends(first, num_rows)
    lowest_last, highest_last = _tile_ends(last, num_rows)
    first_key = BLOCK_SIZE * torch.arange(num_columns, device=first.device)
    last_key = first_key + BLOCK_SIZE - 1
    has_work = (first_key <= highest_last) & (last_key >= lowest_first)
    is_full = (last_key <= lowest_last) & (first_key >= highest_first)
    partial, full = (has_work & ~is_full)[:, None], (has_work & is_full)[:, None]

    # Tensors, not numbers in the function, which would be recompiled for each.
    def sees(b: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= last[b, query]) & (key >= first[b, query])

    return BlockMask.from_kv_blocks(
        *_count_and_order(partial),
        *_count_and_order(full),
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=sees,
        seq_lengths=(num_queries, num_keys),
    )


def _tile_ends(ascending: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, q] ascending integers to the lowest and the highest of each row of tiles, [b, rows, 1] twice."""
    missing = num_rows * BLOCK_SIZE - ascending.shape[1]
    padded = functional.pad(ascending[:, None].float(), (0, missing), mode="replicate")
    tiles = padded.view(len(ascending), num_rows, BLOCK_SIZE)
    return tiles[..., 0, None], tiles[..., -1, None]


def _count_and_order(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, 1, rows, columns] bool to the number of columns in each row, and the columns with those in front."""
    chosen = tiles.int()
    return chosen.sum(dim=-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()
