"""Build the norms of the `torch` layer specification. h: hidden size, n: heads of this tensor-parallel rank."""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import distributed, nn
from torch.nn import functional


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float | None) -> torch.Tensor:
    """[..., h] to [..., h]."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
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


class ZeroCenteredRMSNorm(RMSNorm):
    """RMSNorm that multiplies by 1 + weight, in fp32 as Gemma's reference implementation does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., h]."""
        return self.kernel(x.float(), 1.0 + self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm with the chosen kernel."""

    kernel: Callable[..., torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., h]."""
        return self.kernel(x, self.weight, self.bias, self.eps)


class ZeroCenteredLayerNorm(LayerNorm):
    """LayerNorm that multiplies by 1 + weight, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., h]."""
        bias = None if self.bias is None else self.bias.float()
        return self.kernel(x.float(), 1.0 + self.weight.float(), bias, self.eps).to(x.dtype)


_NORMS: dict[tuple[str, bool], type[RMSNorm | LayerNorm]] = {
    ("RMSNorm", False): RMSNorm,
    ("RMSNorm", True): ZeroCenteredRMSNorm,
    ("LayerNorm", False): LayerNorm,
    ("LayerNorm", True): ZeroCenteredLayerNorm,
}


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
        has_bias: bool = True,
    ) -> nn.Module:
        """Build the module for activations [..., hidden_size].

        Args:
            kernels: the implementations of RMSNorm and of LayerNorm.
            has_bias: of LayerNorm.
        """
        kind = _NORMS[config.normalization, config.layernorm_zero_centered_gamma]
        bias = {"bias": has_bias} if issubclass(kind, LayerNorm) else {}
        norm = kind(hidden_size, eps=eps, dtype=config.params_dtype, **bias)
        norm.kernel = kernels[config.normalization]
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


class AllHeadsNorm(nn.Module):
    """RMSNorm over all heads of a token together; tensor-parallel ranks hold the weights of their heads.

    Args:
        hidden_size: channels of a head.
        num_heads: of the whole model.
    Source: OLMo 2 (arXiv:2501.00656), section 3.3.
    """

    group: distributed.ProcessGroup
    """Tensor-parallel ranks, set by the attention that the norm belongs to."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, *, num_heads: int) -> None:
        super().__init__()
        self.width = hidden_size * num_heads
        self.eps = eps
        local_width = self.width // config.tensor_model_parallel_size
        self.weight = nn.Parameter(torch.ones(local_width, dtype=config.params_dtype))
        self.weight.tensor_model_parallel = True  # type: ignore[attr-defined]
        self.weight.partition_dim = 0  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[s, b, n, d] to [s, b, n, d]."""
        heads = x.flatten(-2)
        if self.group.size() == 1:
            return functional.rms_norm(heads, self.weight.shape, self.weight, self.eps).view_as(x)
        values = heads.float()
        squares = reduce_from_tensor_model_parallel_region(values.square().sum(dim=-1, keepdim=True), self.group)
        # Every rank scales its own heads with the sum, so its gradient is the sum of theirs.
        squares = copy_to_tensor_model_parallel_region(squares, self.group)
        scaled = values * torch.rsqrt(squares / self.width + self.eps)
        return (scaled.to(x.dtype) * self.weight).view_as(x)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the weight's place in the global tensor, which is cut along its only axis."""
        assert metadata is not None
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        return sharded
