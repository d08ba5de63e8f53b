"""Exchange sequences between context-parallel ranks, so that attention covers the whole sequence.

s: local sequence, S: global sequence (S = s * cp_size), b: batch, n: heads, d: channels of a head.

Each rank holds chunks `cp_rank` and `2 * cp_size - 1 - cp_rank` of the sequence (`slice_for_context_parallel`).
"""

from typing import Any

import torch
from torch import distributed


def slice_for_context_parallel(whole: torch.Tensor, *, cp_rank: int, cp_size: int) -> torch.Tensor:
    """Keep this rank's two chunks of each sequence, so causal work is balanced.

    Args:
        whole: [b, S, ...]; S divisible by 2 * cp_size.
    Returns:
        [b, s, ...]: chunks cp_rank and 2 * cp_size - 1 - cp_rank.
    Source: Megatron-Core get_batch_on_this_cp_rank.
    """
    if cp_size == 1:
        return whole
    chunks = whole.chunk(2 * cp_size, dim=1)
    return torch.cat([chunks[cp_rank], chunks[2 * cp_size - 1 - cp_rank]], dim=1)


def gather_sequence(local: torch.Tensor, *, group: distributed.ProcessGroup) -> torch.Tensor:
    """Collect the whole sequence on each rank: [s, ...] to [S, ...]; its gradient is summed over ranks."""
    gathered: torch.Tensor = _GatherSequence.apply(local, group)
    return gathered.index_select(0, _global_order(group.size(), local.shape[0] // 2, local.device))


def sequence_to_heads(local: torch.Tensor, *, group: distributed.ProcessGroup) -> torch.Tensor:
    """Exchange a part of the sequence with all heads for the whole sequence with a part of the heads.

    Args:
        local: [s, b, cp_size, n / cp_size, d]: the heads of each rank, in rank order.
    Returns:
        [S, b, n / cp_size, d].
    Source: DeepSpeed-Ulysses (arXiv:2309.14509).
    """
    length, batch, _, heads, channels = local.shape
    exchanged: torch.Tensor = _AllToAll.apply(local.permute(2, 0, 1, 3, 4), group)
    whole = exchanged.reshape(-1, batch, heads, channels)
    return whole.index_select(0, _global_order(group.size(), length // 2, local.device))


def heads_to_sequence(whole: torch.Tensor, *, group: distributed.ProcessGroup) -> torch.Tensor:
    """Undo `sequence_to_heads`: [S, b, n / cp_size, d] to [s, b, n, d]."""
    length, batch, heads, channels = whole.shape
    cp_size = group.size()
    order = _global_order(cp_size, length // (2 * cp_size), whole.device)
    by_rank = whole.index_select(0, order.argsort()).view(cp_size, -1, batch, heads, channels)
    exchanged: torch.Tensor = _AllToAll.apply(by_rank, group)
    return exchanged.permute(1, 2, 0, 3, 4).reshape(-1, batch, cp_size * heads, channels)


class _GatherSequence(torch.autograd.Function):
    """[s, ...] of every rank to [S, ...] in rank order; backward sums the gradients of each rank's part."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        gathered = local.new_empty((local.shape[0] * group.size(), *local.shape[1:]))
        distributed.all_gather_into_tensor(gathered, local.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        local = gradient.new_empty((gradient.shape[0] // ctx.group.size(), *gradient.shape[1:]))
        distributed.reduce_scatter_tensor(local, gradient.contiguous(), group=ctx.group)
        return local, None


class _AllToAll(torch.autograd.Function):
    """Send part i of [cp_size, ...] to rank i and receive part i from it; backward is the same."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _exchange(parts, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchange(gradient, ctx.group), None


def _exchange(parts: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
    received = torch.empty_like(parts, memory_format=torch.contiguous_format)
    distributed.all_to_all_single(received, parts.contiguous(), group=group)
    return received


def _global_order(cp_size: int, chunk: int, device: torch.device) -> torch.Tensor:
    """Return the index [S] that restores the sequence order of the concatenation of all ranks' balanced halves."""
    held = [index for rank in range(cp_size) for index in (rank, 2 * cp_size - 1 - rank)]
    place = torch.empty(2 * cp_size, dtype=torch.int64)
    place[torch.tensor(held)] = torch.arange(2 * cp_size)
    return (place[:, None] * chunk + torch.arange(chunk)).reshape(-1).to(device)
