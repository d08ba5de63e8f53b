"""Core attention of the `torch` layer specification, on PyTorch's scaled_dot_product_attention.

s: local sequence, S: global sequence (S = s * cp_size), b: batch, n: query heads, g: key-value heads of this
tensor-parallel rank, d: channels of a head.
"""

import contextlib
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import distributed, nn
from torch.nn import functional


class SdpaCoreAttention(nn.Module):
    """Causal attention; with context parallelism over keys and values gathered from all ranks.

    Each context-parallel rank holds chunks `cp_rank` and `2 * cp_size - 1 - cp_rank` of the sequence (see
    `trainer.engine.forward.slice_for_context_parallel`), and each of the two attends to a prefix of the keys, so no
    rank computes a masked half and all have equal work.

    Source: all-gather form of Llama 3's context parallelism (arXiv:2407.21783, section 3.3.2).
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__()
        if attn_mask_type is not AttnMaskType.causal:
            raise ValueError(f"SdpaCoreAttention is causal only, got {attn_mask_type}")
        assert pg_collection is not None
        self.config = config
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.cp_group = pg_collection.cp

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [s, b, n, d].
            key: [s, b, g, d]; more than s keys only when a cache is decoded from.
            value: as key.
            attn_mask_type: no_mask lets every query see all keys; anything else is causal.
        Returns:
            [s, b, n * d].
        """
        assert attention_bias is None and packed_seq_params is None
        sequence, batch, heads, channels = query.shape
        if self.cp_group.size() == 1:
            # Megatron-Core says no_mask for one new token that sees all keys in the cache.
            is_causal = attn_mask_type is not AttnMaskType.no_mask
            assert not is_causal or query.shape[0] == key.shape[0]
            context = self._attend(query, key, value, is_causal=is_causal)
        else:
            context = self._attend_across_ranks(query, key, value)
        return context.reshape(sequence, batch, heads * channels)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **mask: bool | torch.Tensor
    ) -> torch.Tensor:
        dropout = self.dropout if self.training else 0.0
        with self._random_state(dropout):
            context = functional.scaled_dot_product_attention(
                query.permute(1, 2, 0, 3),
                key.permute(1, 2, 0, 3),
                value.permute(1, 2, 0, 3),
                dropout_p=dropout,
                scale=self.softmax_scale,
                enable_gqa=query.shape[2] != key.shape[2],
                **mask,  # type: ignore[arg-type]
            )
        return context.permute(2, 0, 1, 3)

    def _random_state(self, dropout: float) -> contextlib.AbstractContextManager[None]:
        """Tensor-parallel ranks hold different heads, so their dropout masks must differ.

        Under sequence parallelism the random state is already the rank's own here (Megatron-Core's rule).
        """
        if dropout == 0.0 or self.config.sequence_parallel:
            return contextlib.nullcontext()
        return tensor_parallel.get_cuda_rng_tracker().fork()

    def _attend_across_ranks(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        cp_size, cp_rank = self.cp_group.size(), self.cp_group.rank()
        chunk = query.shape[0] // 2
        order = _global_order(cp_size, chunk, query.device)
        key_value = _GatherSequence.apply(torch.cat([key, value], dim=-1), self.cp_group).index_select(0, order)
        key, value = key_value.split(key.shape[-1], dim=-1)
        contexts = []
        for half, chunk_index in ((query[:chunk], cp_rank), (query[chunk:], 2 * cp_size - 1 - cp_rank)):
            visible = (chunk_index + 1) * chunk
            positions = torch.arange(chunk_index * chunk, visible, device=query.device)
            mask = positions[:, None] >= torch.arange(visible, device=query.device)[None, :]
            contexts.append(self._attend(half, key[:visible], value[:visible], attn_mask=mask))
        return torch.cat(contexts)


class _GatherSequence(torch.autograd.Function):
    """[s, ...] of every rank to [S, ...] in rank order; backward sums the gradients of each rank's part."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        gathered = local.new_empty((local.shape[0] * group.size(), *local.shape[1:]))
        distributed.all_gather_into_tensor(gathered, local.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        local = gradient.new_empty((gradient.shape[0] // ctx.group.size(), *gradient.shape[1:]))
        distributed.reduce_scatter_tensor(local, gradient.contiguous(), group=ctx.group)
        return local, None


def _global_order(cp_size: int, chunk: int, device: torch.device) -> torch.Tensor:
    """Index [S] that puts the concatenation of all ranks' balanced halves back in sequence order."""
    held = [index for rank in range(cp_size) for index in (rank, 2 * cp_size - 1 - rank)]
    place = torch.empty(2 * cp_size, dtype=torch.int64)
    place[torch.tensor(held)] = torch.arange(2 * cp_size)
    return (place[:, None] * chunk + torch.arange(chunk)).reshape(-1).to(device)
