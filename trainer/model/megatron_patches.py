"""Patch Megatron-Core's model code, mostly hooks that it provides for kernels of Transformer Engine.

`parallel/cpu_shim.py` makes Megatron-Core run without CUDA; all other patches are here, and none is applied before
`install_megatron_patches` is called.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from megatron.core.transformer import attention, multi_latent_attention
from megatron.core.transformer.moe import moe_utils

from trainer.model.rotary import apply_rotary

_LIBRARY_ROTARY = rope_utils.fused_apply_rotary_pos_emb
"""The installed fused kernel, if Megatron-Core has found one."""


def install_megatron_patches(
    *, rotary: Callable[..., torch.Tensor] = apply_rotary, prefers_library_rotary: bool = False
) -> None:
    """Patch Megatron-Core. Patches apply to all models of the process; of several calls, the last one counts.

    Args:
        rotary: replaces the fused rotary kernel (`apply_rope_fusion`). Megatron-Core's unfused implementation
            concatenates halves four times per layer; on a CPU that was 10 % of a training step.
        prefers_library_rotary: use Transformer Engine's kernel if it is installed; it supports one row of positions for
            all sequences only.
    """
    is_left = prefers_library_rotary and _LIBRARY_ROTARY is not None
    rope_utils.fused_apply_rotary_pos_emb = _LIBRARY_ROTARY if is_left else rotary
    if attention.SplitAlongDim is None:
        attention.SplitAlongDim = split_along_dim
    if importlib.util.find_spec("transformer_engine") is None:
        # Then layers can also recompute norms (`recompute_modules`).
        tensor_parallel.CheckpointWithoutOutput = PlainCheckpointWithoutOutput
        # Megatron-Core takes its own classes of Transformer Engine for the library, and compares with one that is None.
        multi_latent_attention.HAVE_TE = False
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None  # the router reads a name that only Transformer Engine defines


class PlainCheckpointWithoutOutput(CheckpointWithoutOutput):
    """Megatron-Core's CheckpointWithoutOutput without its default `fp8`, which would require Transformer Engine."""

    def __init__(self, fp8: Any = None) -> None:
        super().__init__(fp8=fp8 or None)


def split_along_dim(tensor: torch.Tensor, dim: int, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Split like torch.split, with a backward pass that writes each gradient into its place, without concatenation.

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
