"""Build masks of attention that is causal inside documents, for queries anywhere in a sequence.

b: batch, S: sequence, q: queries, k: keys (the first k positions of the sequence).

A query at position p attends to the keys from the beginning of its document to p. The beginning is known per query, so
a mask does not depend on the keys, and a rank needs the beginnings of its own queries only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

BLOCK_SIZE = 128
"""Queries and keys of one tile of FlexAttention, its own default."""


class CausalMasks:
    """Cache the masks that the layers of one model chunk share, until the next micro batch."""

    def __init__(self) -> None:
        self._starts: torch.Tensor | None = None
        self._kept: dict[tuple[str, int, int, int], torch.Tensor | BlockMask] = {}

    def dense(
        self, *, first: int, num_queries: int, num_keys: int, starts: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return the mask that is added to scores: 0 where a query attends to a key, minus infinity elsewhere.

        scaled_dot_product_attention would convert a boolean mask to the same, and keep one for each layer.

        Args:
            first: position of the first query; the others follow it.
            starts: [b, S] integers, the beginning of each position's document; on the device of the mask.
            dtype: of the queries.
        Returns:
            [b, 1, q, k].
        """

        def build(**where: Any) -> torch.Tensor:
            mask = build_dense_mask(**where)
            return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)

        mask = self._find(f"dense {dtype}", first, num_queries, num_keys, starts, build)
        assert isinstance(mask, torch.Tensor)
        return mask

    def blocks(self, *, first: int, num_queries: int, num_keys: int, starts: torch.Tensor) -> BlockMask:
        """Return the same mask for FlexAttention: which tiles have work, and which of them need no mask inside."""
        mask = self._find("blocks", first, num_queries, num_keys, starts, build_block_mask)
        assert isinstance(mask, BlockMask)
        return mask

    def _find(
        self,
        kind: str,
        first: int,
        num_queries: int,
        num_keys: int,
        starts: torch.Tensor,
        build: Callable[..., torch.Tensor | BlockMask],
    ) -> torch.Tensor | BlockMask:
        # The stored tensor keeps its memory, so an equal address means the same tensor, even if activation recompute
        # passes it on as another object.
        if self._starts is None or self._starts.data_ptr() != starts.data_ptr() or self._starts.shape != starts.shape:
            self._starts, self._kept = starts, {}
        key = (kind, first, num_queries, num_keys)
        if key not in self._kept:
            self._kept[key] = build(first=first, num_queries=num_queries, num_keys=num_keys, starts=starts)
        return self._kept[key]


def build_dense_mask(*, first: int, num_queries: int, num_keys: int, starts: torch.Tensor) -> torch.Tensor:
    """Return True where a query attends to a key: [b, 1, q, k]; arguments as of `CausalMasks.dense`."""
    positions = torch.arange(first, first + num_queries, device=starts.device)
    keys = torch.arange(num_keys, device=starts.device)
    begins = starts[:, first : first + num_queries, None]
    return ((keys <= positions[:, None]) & (keys >= begins))[:, None]


def build_block_mask(*, first: int, num_queries: int, num_keys: int, starts: torch.Tensor) -> BlockMask:
    """Build the mask of `CausalMasks.blocks`.

    Tiles are classified by the ends of their ranges, since starts ascend along a sequence: work of (S / 128)**2, while
    FlexAttention's own create_block_mask checks all S**2 pairs.
    """
    device, batch = starts.device, len(starts)
    begins = starts[:, first : first + num_queries].contiguous()
    num_rows, num_columns = -(-num_queries // BLOCK_SIZE), -(-num_keys // BLOCK_SIZE)
    padded = functional.pad(begins[:, None].float(), (0, num_rows * BLOCK_SIZE - num_queries), mode="replicate")
    tiles = padded.view(batch, num_rows, BLOCK_SIZE)
    first_begin, last_begin = tiles[..., 0, None], tiles[..., -1, None]
    first_position = first + BLOCK_SIZE * torch.arange(num_rows, device=device)[:, None]
    last_position = (first_position + BLOCK_SIZE - 1).clamp(max=first + num_queries - 1)
    first_key = BLOCK_SIZE * torch.arange(num_columns, device=device)
    last_key = first_key + BLOCK_SIZE - 1
    has_work = (first_key <= last_position) & (last_key >= first_begin)
    is_full = (last_key <= first_position) & (first_key >= last_begin)
    partial, full = (has_work & ~is_full)[:, None], (has_work & is_full)[:, None]
    # A tensor, not a number in the function, which would be recompiled for each.
    positions = torch.arange(first, first + num_queries, device=device)

    def sees(b: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= positions[query]) & (key >= begins[b, query])

    return BlockMask.from_kv_blocks(
        *_count_and_order(partial),
        *_count_and_order(full),
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=sees,
        seq_lengths=(num_queries, num_keys),
    )


def _count_and_order(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, 1, rows, columns] bool to the number of columns in each row, and the columns with those in front."""
    chosen = tiles.int()
    return chosen.sum(dim=-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()
