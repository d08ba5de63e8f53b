"""Run Megatron-Core's layers in fewer Python calls: for decoding, and linear layers of one tensor-parallel rank.

A new token costs each layer some matrix-vector products. Megatron-Core calls autograd functions, profiler ranges and
offloading hooks around them, which took a fifth of the time of a small model (31.6 M parameters, one CPU core). Where
gradients are recorded, these classes are Megatron-Core's. A linear layer of one tensor-parallel rank is PyTorch's in
both cases: its bias is part of the matrix product, which saves a copy of the output.

s: tokens, b: batch, h: hidden size, g: key-value heads of this tensor-parallel rank, n: query heads, d: channels of a
head.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import nn
from torch.nn import functional

from trainer.model.cache import CachedStep
from trainer.model.packed_weights import can_pack, multiply, pack
from trainer.model.quantized import QuantizedWeight
from trainer.model.rotary import rotate
from trainer.model.target_positions import TargetPositions


class ColumnLinear(ColumnParallelLinear):
    """ColumnParallelLinear whose forward pass without gradients is one matrix product."""

    packed: torch.Tensor | QuantizedWeight | None = None
    """The weight after `pack_linear_layers`, or quantized."""

    def forward(
        self,
        input_: torch.Tensor,
        weight: torch.Tensor | None = None,
        runtime_gather_output: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, output / tp_size] of [s, b, input], and the bias if it is added later."""
        if _is_plain(self):
            return functional.linear(input_, self.weight if weight is None else weight, self.bias), None
        if torch.is_grad_enabled() or self.sequence_parallel or self.explicit_expert_comm:
            result: tuple[torch.Tensor, torch.Tensor | None] = super().forward(input_, weight, runtime_gather_output)
            return result
        added, returned = (None, self.bias) if self.skip_bias_add else (self.bias, None)
        output = multiply(input_, self.weight if weight is None else weight, added, packed=self.packed)
        gathers = self.gather_output if runtime_gather_output is None else runtime_gather_output
        if gathers and self.tp_group.size() > 1:
            output = gather_from_tensor_model_parallel_region(output, group=self.tp_group)
        return output, returned


class RowLinear(RowParallelLinear):
    """RowParallelLinear whose forward pass without gradients is one matrix product and the sum over ranks."""

    packed: torch.Tensor | QuantizedWeight | None = None
    """The weight after `pack_linear_layers`, or quantized."""

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, output] of [s, b, input / tp_size], and the bias if it is added later."""
        if _is_plain(self):
            return functional.linear(input_, self.weight, self.bias), None
        has_gradients = torch.is_grad_enabled()
        if has_gradients or self.sequence_parallel or self.explicit_expert_comm or not self.input_is_parallel:
            result: tuple[torch.Tensor, torch.Tensor | None] = super().forward(input_)
            return result
        output = multiply(input_, self.weight, packed=self.packed)
        if self.tp_group.size() > 1:
            output = reduce_from_tensor_model_parallel_region(output, group=self.tp_group)
        if self.skip_bias_add or self.bias is None:
            return output, self.bias
        return output + self.bias, None


def _is_plain(layer: ColumnLinear | RowLinear) -> bool:
    """Return whether a layer is PyTorch's linear layer: of one rank, and not an expert, which scales its bias."""
    return layer.packed is None and layer.tp_group.size() == 1 and not layer.is_expert


def pack_linear_layers(model: nn.Module) -> None:
    """Pack the weights of all linear layers of a model, where this is possible.

    The originals are released: the model can then compute nothing with gradients, nor be saved.
    """
    for module in model.modules():
        if isinstance(module, ColumnLinear | RowLinear) and module.packed is None and can_pack(module.weight):
            module.packed = pack(module.weight)
            module.weight.data = module.weight.new_empty(0)


class ShortSelfAttention(SelfAttention):
    """SelfAttention with a shorter path for a step with a key-value cache."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, h] of [s, b, h], and the bias of the projection, which is added later."""
        if not isinstance(attention_mask, CachedStep) or self.config.num_query_groups < self.world_size:
            result: tuple[torch.Tensor, torch.Tensor | None] = super().forward(
                hidden_states, attention_mask, *args, **kwargs
            )
            return result
        query, key, value = self._split(self.linear_qkv(hidden_states)[0])
        angles = kwargs.get("rotary_pos_emb")
        if angles is not None:
            cos, sin = attention_mask.turns(angles, dtype=query.dtype)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        context = self.core_attention(query, key, value, attention_mask)
        output: tuple[torch.Tensor, torch.Tensor | None] = self.linear_proj(context)
        return output

    def _split(self, mixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries [s, b, n, d], keys and values [s, b, g, d] of [s, b, g * (n / g + 2) * d]."""
        s, b, _ = mixed.shape
        channels = self.hidden_size_per_attention_head
        groups = mixed.view(s, b, self.num_query_groups_per_partition, -1)
        query, key, value = groups.split((groups.shape[-1] - 2 * channels, channels, channels), dim=-1)
        query = query.reshape(s, b, -1, channels)
        if self.q_layernorm is not None:
            query = self.q_layernorm(query)
        if self.k_layernorm is not None:
            key = self.k_layernorm(key)
        return query, key, value


class ShortTransformerLayer(TransformerLayer):
    """TransformerLayer with a shorter path for a step with a key-value cache, and an MLP of the positions it is for."""

    picks_targets = False
    """Whether the MLP computes only the positions that are read: of the last layer."""
    _targets: TargetPositions | None = None
    """Of the forward pass that runs."""

    def _forward_mlp(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return activations after the MLP: [s, b, h] to [s, b, h], or [n, 1, h] of targets."""
        if self._targets is not None:
            hidden_states = self._targets.pick_hidden(hidden_states)
        return super()._forward_mlp(hidden_states, *args, **kwargs)

    def forward(self, *args: Any, attention_bias: TargetPositions | None = None, **kwargs: Any) -> Any:
        """Return activations after attention and MLP, [s, b, h] or [n, 1, h] of targets, and no context.

        Args:
            attention_bias: positions that are read of the last layer, see `GPT.forward`; None for all.
            Others: those of Megatron-Core's `TransformerLayer.forward`.
        """
        step = kwargs.get("attention_mask")
        if not isinstance(step, CachedStep):
            self._targets = attention_bias if self.picks_targets else None
            return super().forward(*args, **kwargs)
        hidden = kwargs["hidden_states"]
        attended = self.self_attention(self.input_layernorm(hidden), step, rotary_pos_emb=kwargs.get("rotary_pos_emb"))
        hidden = self.self_attn_bda(False, False)(attended, hidden, 0.0)
        output = self.mlp(self.pre_mlp_layernorm(hidden))
        return self.mlp_bda(False, False)(output, hidden, 0.0), None
