"""Build the norms of the `torch` layer specification. h: hidden size."""

from collections.abc import Callable

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn
from torch.nn import functional


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float | None) -> torch.Tensor:
    """[..., h] to [..., h]."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """[..., h] to [..., h]."""
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, whose input is one edge of the autograd graph.

    If torch composes it from several operations, each adds to the gradient of the residual stream separately; with one
    edge their sum is added at once, in the same order with and without recomputation of the norm.
    """

    kernel: Callable[..., torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., h]."""
        return self.kernel(x.view_as(x), self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm with the chosen kernel."""

    kernel: Callable[..., torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., h]."""
        return self.kernel(x, self.weight, self.bias, self.eps)


class TorchNorm:
    """Build RMSNorm or LayerNorm and mark its weights for sequence parallelism.

    Megatron-Core's own WrappedTorchNorm does not support sequence parallelism. A mark is sufficient: the gradients of
    marked weights are summed over tensor-parallel ranks, each of which has processed a part of the sequence.
    """

    def __new__(  # type: ignore[misc]
        cls,
        config: TransformerConfig,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        kernels: dict[str, Callable[..., torch.Tensor]],
    ) -> nn.Module:
        """Build the module for activations [..., hidden_size].

        Args:
            kernels: the implementations of RMSNorm and of LayerNorm.
        """
        kind = RMSNorm if config.normalization == "RMSNorm" else LayerNorm
        norm = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        norm.kernel = kernels[config.normalization]
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm
