"""Splitting the query-key-value projection, without the concatenation that autograd would do."""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.transformer import attention


def fill_split_slot() -> None:
    """Take the place that Megatron-Core keeps for Transformer Engine's SplitAlongDim, if no library has taken it."""
    if attention.SplitAlongDim is None:
        attention.SplitAlongDim = split_along_dim


def split_along_dim(tensor: torch.Tensor, dim: int, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """torch.split, whose backward pass writes each gradient into its place.

    torch.cat along the last axis runs on one thread on a CPU: 2 % of a training step.
    """
    parts: tuple[torch.Tensor, ...] = _SplitAlongDim.apply(tensor, dim, tuple(sizes))
    return parts


class _SplitAlongDim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, dim: int, sizes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        ctx.dim, ctx.sizes, ctx.shape = dim, sizes, tensor.shape
        return tensor.split(sizes, dim=dim)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        result = gradients[0].new_empty(ctx.shape)
        for place, gradient in zip(result.split(ctx.sizes, dim=ctx.dim), gradients, strict=True):
            place.copy_(gradient)
        return result, None, None
