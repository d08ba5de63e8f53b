"""Build self-attention whose layers differ in their rotary angles, and multi-latent attention.

s: sequence, b: batch, n: query heads of this tensor-parallel rank, r: channels with rotary positions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import distributed

from trainer.model.forward_only import ShortSelfAttention
from trainer.model.norm import AllHeadsNorm
from trainer.model.rotary import apply_rotary


class RotarySelfAttention(ShortSelfAttention):
    """Megatron-Core's self-attention with one of several kinds of rotary angles.

    Args:
        rotary_kind: row of the stacked angles that this layer uses; None if there is one kind, not stacked.
    """

    def __init__(self, *args: Any, rotary_kind: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rotary_kind = rotary_kind
        for norm in (self.q_layernorm, self.k_layernorm):
            if isinstance(norm, AllHeadsNorm):
                norm.group = self.pg_collection.tp

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, rotary_pos_emb: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, h] and a bias: hidden states [s, b, h], angles [kinds, s, b | 1, 1, d] or one kind of them."""
        if rotary_pos_emb is not None and self.rotary_kind is not None:
            rotary_pos_emb = rotary_pos_emb[self.rotary_kind]
        output: tuple[torch.Tensor, torch.Tensor | None] = super().forward(
            hidden_states, *args, rotary_pos_emb=rotary_pos_emb, **kwargs
        )
        return output


class LatentSelfAttention(MLASelfAttention):
    """Multi-latent attention: queries, keys and values from compressed vectors, and a rotated part of its own.

    Megatron-Core's modules and names of weights, with angles that the model passes to all layers (Megatron-Core's own
    count from 0 in every sequence), and with the gradient of the shared rotated keys summed over tensor-parallel
    ranks, each of which has some of the heads.

    Args:
        score_factor: factor of scores beside 1 / sqrt(channels).
        rotary_factor: factor of the rotated part of queries and keys.
        down_projections: specifications of layers that replace Megatron-Core's own, by name.
    Source: DeepSeek-V2 (arXiv:2405.04434), section 2.1.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *args: Any,
        score_factor: float = 1.0,
        rotary_factor: float = 1.0,
        down_projections: Mapping[str, ModuleSpec] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(config, *args, **others)
        del self.rotary_pos_emb
        for name, spec in (down_projections or {}).items():
            former = getattr(self, name)
            replacement = build_module(
                spec,
                former.input_size,
                former.output_size,
                config=config,
                init_method=config.init_method,
                bias=False,
                gather_output=False,
                tp_group=former.tp_group,
            )
            setattr(self, name, replacement)
        self.core_attention.softmax_scale = config.softmax_scale or score_factor * self.q_head_dim**-0.5
        self.rotary_factor = rotary_factor
        self._angles: torch.Tensor | None = None

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, rotary_pos_emb: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, h] and a bias: hidden states [s, b, h], angles [s, b | 1, 1, r]."""
        self._angles = rotary_pos_emb
        output: tuple[torch.Tensor, torch.Tensor | None] = super().forward(hidden_states, *args, **kwargs)
        return output

    def get_query_key_value_tensors(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Return query and key [s, b, n, qk_head_dim + r], value [s, b, n, v_head_dim], and the compressed ones."""
        config, group = self.config, self.pg_collection.tp
        heads = self.num_attention_heads_per_partition
        queries = hidden_states
        if config.q_lora_rank is not None:
            queries = self.q_layernorm(self._whole(self.linear_q_down_proj(hidden_states)[0], group))
            query = self.linear_q_up_proj(queries)[0]
        else:
            query = self.linear_q_proj(hidden_states)[0]
        query = query.unflatten(-1, (heads, self.q_head_dim))
        combined = self.linear_kv_down_proj(hidden_states)[0]
        if group.size() > 1:
            combined = gather_from_tensor_model_parallel_region(combined, group)
        compressed, shared = combined.split([config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1)
        if group.size() > 1:
            shared = copy_to_tensor_model_parallel_region(shared, group)
            if config.sequence_parallel:
                compressed = scatter_to_sequence_parallel_region(compressed, group)
        compressed = self.kv_layernorm(compressed)
        key_value = self.linear_kv_up_proj(compressed)[0].unflatten(-1, (heads, config.qk_head_dim + config.v_head_dim))
        key, value = key_value.split([config.qk_head_dim, config.v_head_dim], dim=-1)
        plain, rotated = query.split([config.qk_head_dim, config.qk_pos_emb_head_dim], dim=-1)
        query = torch.cat([plain, self._rotate(rotated)], dim=-1)
        key = torch.cat([key, self._rotate(shared[:, :, None]).expand(-1, -1, heads, -1)], dim=-1)
        return query, key, value, queries, compressed

    def _whole(self, channels: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        """[s, b, channels / tp_size] to all channels, of this rank's part of a sequence that is split."""
        if group.size() == 1:
            return channels
        whole = gather_from_tensor_model_parallel_region(channels, group)
        return scatter_to_sequence_parallel_region(whole, group) if self.config.sequence_parallel else whole

    def _rotate(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotate [s, b, heads, r], whose pairs are neighbours; halves come out, in queries and keys alike."""
        if self._angles is None:
            return heads
        halves = torch.cat([heads[..., 0::2], heads[..., 1::2]], dim=-1)
        rotated = apply_rotary(halves, self._angles)
        return rotated if self.rotary_factor == 1.0 else rotated * self.rotary_factor
