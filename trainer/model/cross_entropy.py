"""Cross entropy over a vocabulary that tensor-parallel ranks share, a few rows at a time.

s: sequence, b: batch, v: vocabulary rows of this rank.
"""

from typing import Any

import torch
from torch import distributed

CHUNK_BYTES = 2 << 20
"""fp32 logits in work at a time: they stay in a CPU core's cache, and a GPU needs no fp32 copy of all logits."""


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, group: distributed.ProcessGroup
) -> torch.Tensor:
    """Loss of each token in nats, fp32.

    Only the logits in their own format are kept for the backward pass; softmax is computed anew there. Against
    Megatron-Core's form, which holds fp32 copies of all logits, that is a third of the memory.

    Args:
        logits: [s, b, v] of any float type.
        targets: [s, b] int64 token ids of the whole vocabulary.
        group: tensor-parallel ranks; each holds consecutive rows of the vocabulary, in rank order.
    Returns:
        [s, b].
    Source: Megatron-LM (arXiv:1909.08053, section 3), with the maximum folded in afterwards as in online softmax
        (Milakov and Gimelshein, arXiv:1805.02867).
    """
    losses: torch.Tensor = _CrossEntropy.apply(logits, targets, group)
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        local = targets.reshape(-1) - group.rank() * rows.shape[1]
        is_here = (local >= 0) & (local < rows.shape[1])
        columns = torch.where(is_here, local, 0)
        maximum = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        total = torch.empty_like(maximum)
        for part in _parts(rows):
            values = rows[part].float()
            maximum[part] = values.amax(dim=-1)
            total[part] = torch.sub(values, maximum[part, None]).exp_().sum(dim=-1)
        chosen = torch.where(is_here, rows.gather(1, columns[:, None])[:, 0].float(), 0.0)
        if group.size() > 1:
            highest = maximum.clone()
            distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=group)
            sums = torch.stack([total * (maximum - highest).exp_(), chosen])
            distributed.all_reduce(sums, group=group)
            maximum, (total, chosen) = highest, sums
        # The maximum stays apart from the logarithm: their sum would lose digits where logits are large.
        ctx.save_for_backward(logits, maximum, total, columns, is_here)
        return (total.log() + (maximum - chosen)).view(targets.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, maximum, total, columns, is_here = ctx.saved_tensors
        rows = logits.reshape(-1, logits.shape[-1])
        scale = gradient.reshape(-1).float()
        softmax_scale, target_gradient = scale / total, torch.where(is_here, -scale, 0.0)
        result = torch.empty_like(rows)
        for part in _parts(rows):
            place = result[part]
            # fp32 is worked out where it belongs; other formats are rounded once, at the end.
            values = place if place.dtype is torch.float32 else torch.empty_like(place, dtype=torch.float32)
            torch.sub(rows[part], maximum[part, None], out=values).exp_().mul_(softmax_scale[part, None])
            values.scatter_add_(1, columns[part, None], target_gradient[part, None])
            if values is not place:
                place.copy_(values)
        return result.view(logits.shape), None, None


def _parts(rows: torch.Tensor) -> list[slice]:
    """Cut [n, v] into runs of rows of CHUNK_BYTES in fp32."""
    size = max(1, CHUNK_BYTES // (4 * rows.shape[1]))
    return [slice(start, start + size) for start in range(0, len(rows), size)]
