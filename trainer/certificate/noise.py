"""Add random rounding errors like those of another order of additions, to estimate how much layouts may differ.

A layout adds the same numbers in another order. The result of a sum of n products then differs as if each product had
been multiplied by 1 + d, and for rounding errors that behave like random numbers |d| is at most about sqrt(n) * u.
So the reference is run again with such factors on the inputs of every matrix product, attention and norm, in the
forward and in the backward pass, and, in a 16-bit format, with results rounded up or down at random: there layouts
round partial sums that a single process never stores.

Sources: Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019
(the sqrt(n) * u); Parker, "Monte Carlo Arithmetic", UCLA CSD-970002, 1997 (estimating rounding errors by perturbing).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.transformer.moe.router import TopKRouter
from torch import nn

from trainer.model.attention import SdpaCoreAttention

Errors = Callable[[torch.Tensor], torch.Tensor]
"""Draws relative errors in the shape of a tensor."""

ACCUMULATOR_UNIT = torch.finfo(torch.float32).eps / 2
"""Unit roundoff u of the data type in which products are summed; fp32 in every mode."""


class RoundingNoise:
    """Perturb every sum that another layout may compute in another order; `seed` determines the errors."""

    def __init__(self, chunks: Sequence[nn.Module], *, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        for chunk in chunks:
            for module in chunk.modules():
                if _adds_up(module):
                    module.register_forward_pre_hook(self._perturb_inputs)
                    module.register_forward_hook(self._perturb_results)

    def _perturb_inputs(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Perturb inputs: each takes part in sums as long as its last axis; its gradient is a result."""
        return tuple(self._perturb(value, is_result=False) for value in arguments)

    def _perturb_results(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Perturb results: the gradient of each takes part in sums as long as its last axis."""
        if isinstance(output, tuple):
            return (self._perturb(output[0], is_result=True), *output[1:])
        return self._perturb(output, is_result=True)

    def _perturb(self, value: Any, *, is_result: bool) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        unit = torch.finfo(value.dtype).eps / 2
        in_sums, stored = math.sqrt(value.shape[-1]) * ACCUMULATOR_UNIT, unit if unit > ACCUMULATOR_UNIT else 0.0
        forward, backward = (stored, in_sums) if is_result else (in_sums, stored)
        return _Perturb.apply(value, self._errors, forward, backward)

    def _errors(self, like: torch.Tensor) -> torch.Tensor:
        """Draw values uniformly from (-1, 1), fp32."""
        return torch.rand(like.shape, generator=self._generator, device=like.device, dtype=torch.float32) * 2 - 1


class _Perturb(torch.autograd.Function):
    """Multiplies a value, and then its gradient, by 1 + size * error, element by element."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, errors: Errors, forward_size: float, backward_size: float
    ) -> torch.Tensor:
        ctx.errors, ctx.size = errors, backward_size
        return _perturbed(value, errors, forward_size)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _perturbed(gradient, ctx.errors, ctx.size), None, None, None


def _perturbed(value: torch.Tensor, errors: Errors, size: float) -> torch.Tensor:
    if not size:
        return value.clone()
    # Below the smallest normal number, where fp16 gradients may be, spacing is constant, and so are errors.
    scale = value.abs().float().clamp(min=torch.finfo(value.dtype).smallest_normal)
    return (value.float() + scale * (size * errors(value))).to(value.dtype)


def _adds_up(module: nn.Module) -> bool:
    is_ours = isinstance(
        module,
        ColumnParallelLinear
        | RowParallelLinear
        | VocabParallelEmbedding
        | SdpaCoreAttention
        | TopKRouter
        | nn.RMSNorm
        | nn.LayerNorm,
    )
    return is_ours or type(module).__module__ == "megatron.core.extensions.transformer_engine"
