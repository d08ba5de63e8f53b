"""Compute rotary position embedding with torch's kernels. s: sequence, b: batch, n: heads, d: channels of a head."""

from typing import Any

import torch


def apply_rotary(heads: torch.Tensor, frequencies: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """Rotate pairs (i, i + d / 2) of each head's channels by the angles of their positions.

    Args:
        heads: [s, b, n, d].
        frequencies: [s, 1 or b, 1, d] angles, fp32; both halves of the last axis are equal.
    Returns:
        [s, b, n, d], contiguous.
    Source: Su et al. 2021 (arXiv:2104.09864), in the half-split form of GPT-NeoX and Llama.
    """
    assert not interleaved and frequencies.shape[-1] == heads.shape[-1]
    angles = frequencies.chunk(2, dim=-1)[0]
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    if not torch.is_grad_enabled():
        return rotate(heads, cos, sin)
    result: torch.Tensor = _Rotate.apply(heads, cos, sin)
    return result


def plain_rotary(heads: torch.Tensor, frequencies: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """Return the same, for a compiler, which fuses the passes."""
    assert not interleaved
    angles = frequencies.chunk(2, dim=-1)[0]
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def frequencies_at(position_ids: torch.Tensor, *, table: torch.Tensor) -> torch.Tensor:
    """Return the angles of each token's own position.

    Args:
        position_ids: [b, s] integers below S.
        table: [S, 1, 1, d] angles of all positions.
    Returns:
        [s, b, 1, d].
    """
    return table[:, 0, 0][position_ids.transpose(0, 1)][:, :, None]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(heads, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(gradient, cos, sin, direction=-1), None, None


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, direction: int = 1) -> torch.Tensor:
    """Rotate heads [s, b, n, d] by angles whose cosines and sines are [s, 1 or b, 1, d / 2], or back (-1)."""
    result = torch.empty_like(heads, memory_format=torch.contiguous_format)
    first, second = heads.chunk(2, dim=-1)
    first_result, second_result = result.chunk(2, dim=-1)
    torch.mul(first, cos, out=first_result)
    first_result.addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=second_result)
    second_result.addcmul_(first, sin, value=direction)
    return result
