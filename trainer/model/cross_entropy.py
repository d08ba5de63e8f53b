"""Compute cross entropy over a vocabulary that is sharded over tensor-parallel ranks, a few rows at a time.

s: sequence, b: batch, v: vocabulary rows of this rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

CHUNK_BYTES = 2 << 20
"""Size of fp32 logits processed at a time on a CPU: they stay in a core's cache."""
DEVICE_CHUNK_BYTES = 256 << 20
"""The same on other devices: few enough chunks to keep a device busy, without an fp32 copy of all logits."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropyForm:
    """Hold an implementation of what a rank computes with its own columns; rows are those of all tokens, r = s * b."""

    summarize: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """As `summarize`."""
    differentiate: Callable[..., torch.Tensor]
    """As `differentiate`."""


def vocab_parallel_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    group: distributed.ProcessGroup,
    vocab_size: int | None = None,
    form: CrossEntropyForm | None = None,
) -> torch.Tensor:
    """Return the loss of each token in nats, fp32.

    Only the logits in their own data type are kept for the backward pass, which recomputes softmax. Compared to
    Megatron-Core's implementation, which holds fp32 copies of all logits, that is a third of the memory.

    Args:
        logits: [s, b, v] of any float type.
        targets: [s, b] int64 token ids of the whole vocabulary.
        group: tensor-parallel ranks; each holds consecutive rows of the vocabulary, in rank order.
        vocab_size: tokens, without padding; the padding columns after them have probability 0 and gradient 0. None
            takes all columns.
        form: None processes a few rows at a time.
    Returns:
        [s, b].
    Source: Megatron-LM (arXiv:1909.08053, section 3), with the maximum folded in afterwards as in online softmax
        (Milakov and Gimelshein, arXiv:1805.02867).
    """
    width = logits.shape[-1]
    num_columns = width if vocab_size is None else count_columns(vocab_size, width=width, rank=group.rank())
    losses: torch.Tensor = _CrossEntropy.apply(logits, targets, num_columns, group, form or IN_CHUNKS)
    return losses


def count_columns(vocab_size: int, *, width: int, rank: int) -> int:
    """Return how many of a rank's columns belong to tokens: 0 to width; those after them are padding."""
    return min(max(vocab_size - rank * width, 0), width)


def summarize(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maximum of each row of logits and the sum of exp(logit - maximum): [r, v] to [r] fp32 twice.

    Written for a compiler, whose kernel converts each element to fp32 when it reads it. Eager torch would convert all
    of them first.
    """
    values = rows.float()
    maximum = values.amax(dim=-1)
    return maximum, (values - maximum[:, None]).exp().sum(dim=-1)


def differentiate(
    rows: torch.Tensor,
    *,
    maximum: torch.Tensor,
    softmax_scale: torch.Tensor,
    columns: torch.Tensor,
    target_gradient: torch.Tensor,
    num_columns: int,
) -> torch.Tensor:
    """Return the gradient of each logit; for a compiler, like `summarize`.

    Args:
        rows: [r, v] logits.
        maximum: [r] fp32, over all ranks.
        softmax_scale: [r] fp32, factor of exp(logit - maximum).
        columns: [r] int64, of the targets.
        target_gradient: [r] fp32, added at the target's column; 0 if another rank has the target.
        num_columns: the gradient of the columns after these is 0.
    Returns:
        [r, v] in the data type of the logits.
    """
    softmax = (rows.float() - maximum[:, None]).exp() * softmax_scale[:, None]
    numbers = torch.arange(rows.shape[1], device=rows.device)
    gradient = softmax + torch.where(numbers == columns[:, None], target_gradient[:, None], 0.0)
    if num_columns < rows.shape[1]:
        gradient = torch.where(numbers < num_columns, gradient, 0.0)
    return gradient.to(rows.dtype)


def _summarize_in_chunks(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    maximum = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    total = torch.empty_like(maximum)
    for part in _parts(rows):
        values = rows[part].float()
        maximum[part] = values.amax(dim=-1)
        total[part] = torch.sub(values, maximum[part, None]).exp_().sum(dim=-1)
    return maximum, total


def _differentiate_in_chunks(
    rows: torch.Tensor,
    *,
    maximum: torch.Tensor,
    softmax_scale: torch.Tensor,
    columns: torch.Tensor,
    target_gradient: torch.Tensor,
    num_columns: int,
) -> torch.Tensor:
    result = torch.empty_like(rows)
    result[:, num_columns:] = 0
    for part in _parts(rows):
        place = result[part, :num_columns]
        # fp32 is computed in place; other data types are rounded once, at the end.
        values = place if place.dtype is torch.float32 else torch.empty_like(place, dtype=torch.float32)
        torch.sub(rows[part, :num_columns], maximum[part, None], out=values).exp_().mul_(softmax_scale[part, None])
        if num_columns:
            values.scatter_add_(1, columns[part, None], target_gradient[part, None])
        if values is not place:
            place.copy_(values)
    return result


IN_CHUNKS = CrossEntropyForm(summarize=_summarize_in_chunks, differentiate=_differentiate_in_chunks)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        num_columns: int,
        group: distributed.ProcessGroup,
        form: CrossEntropyForm,
    ) -> torch.Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        local = targets.reshape(-1) - group.rank() * rows.shape[1]
        is_here = (local >= 0) & (local < num_columns)
        columns = torch.where(is_here, local, 0)
        if num_columns:
            maximum, total = form.summarize(rows[:, :num_columns])
        else:  # this rank has padding columns only
            maximum = torch.full((len(rows),), -torch.inf, dtype=torch.float32, device=rows.device)
            total = torch.zeros_like(maximum)
        chosen = torch.where(is_here, rows.gather(1, columns[:, None])[:, 0].float(), 0.0)
        if group.size() > 1:
            highest = maximum.clone()
            distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=group)
            sums = torch.stack([total * (maximum - highest).exp_(), chosen])
            distributed.all_reduce(sums, group=group)
            maximum, (total, chosen) = highest, sums
        # The maximum is kept separate from the logarithm: their sum would lose digits for large logits.
        ctx.save_for_backward(logits, maximum, total, columns, is_here)
        ctx.form, ctx.num_columns = form, num_columns
        return (total.log() + (maximum - chosen)).view(targets.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        logits, maximum, total, columns, is_here = ctx.saved_tensors
        scale = gradient.reshape(-1).float()
        result = ctx.form.differentiate(
            logits.reshape(-1, logits.shape[-1]),
            maximum=maximum,
            softmax_scale=scale / total,
            columns=columns,
            target_gradient=torch.where(is_here, -scale, 0.0),
            num_columns=ctx.num_columns,
        )
        return result.view(logits.shape), None, None, None, None


def _parts(rows: torch.Tensor) -> list[slice]:
    """Split [r, v] into groups of rows of the chunk size in fp32."""
    num_bytes = CHUNK_BYTES if rows.device.type == "cpu" else DEVICE_CHUNK_BYTES
    size = max(1, num_bytes // (4 * rows.shape[1]))
    return [slice(start, start + size) for start in range(0, len(rows), size)]
