"""Compute core attention of the `torch` layer specification with scaled_dot_product_attention and FlexAttention.

s: local sequence, S: global sequence (S = s * cp_size), b: batch, n: query heads, g: key-value heads of this
tensor-parallel rank, d: channels of a query or key head, v: of a value head.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer.model.activation import soft_cap
from trainer.model.cache import CachedStep
from trainer.model.key_intervals import IntervalMasks
from trainer.model.sequence_exchange import gather_sequence, heads_to_sequence, sequence_to_heads
from trainer.model.token_tree import TreeStep

MIN_BLOCK_CHANNELS = 16
"""Smallest number of channels of a head for FlexAttention's compiled kernels."""


class SdpaCoreAttention(nn.Module):
    """Causal attention, inside documents if their beginnings are given, over a sequence that ranks may share.

    With context parallelism each rank holds chunks `cp_rank` and `2 * cp_size - 1 - cp_rank` of the sequence.
    `all_gather` collects keys and values, and each chunk's queries attend to a prefix of them, so no rank computes a
    masked half and all have equal work (Llama 3, arXiv:2407.21783, section 3.3.2). `a2a` gives each rank the whole
    sequence of a part of the heads (DeepSpeed-Ulysses, arXiv:2309.14509).

    Plain causal attention of a whole sequence uses SDPA without a mask. Attention with a mask (documents, a window, a
    part of the sequence) uses FlexAttention on CUDA, which skips tiles without work, and SDPA with a mask on other
    devices, with dropout, which FlexAttention does not support, and with heads that are too narrow for it. Capped
    scores, which SDPA does not support, use FlexAttention or the matrix of scores.

    Args:
        masks: shared by the layers of a model chunk.
        window: keys that a query sees, its own included; None does not limit them.
        is_causal: queries see the keys up to their own; otherwise all keys of their document, on both sides.
        softcapping: bound of the scores, cap * tanh(score / cap); None for none.
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
        masks: IntervalMasks | None = None,
        window: int | None = None,
        is_causal: bool = True,
        softcapping: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
    ) -> None:
        super().__init__()
        del k_channels, v_channels  # multi-latent attention passes them; shapes say the same
        if attn_mask_type is not AttnMaskType.causal:
            raise ValueError(f"SdpaCoreAttention is causal only, got {attn_mask_type}")
        assert pg_collection is not None
        self.config = config
        self.layer_number = layer_number
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.cp_group = pg_collection.cp
        self.cp_comm_type = cp_comm_type or "all_gather"
        self.masks = masks or IntervalMasks()
        self.window = window
        self.is_causal = is_causal
        self.softcapping = softcapping

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | CachedStep | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [s, b, n, d].
            key: [s, b, g, d].
            value: [s, b, g, v].
            attention_mask: [b, S] integers, where in the global sequence each position's document begins (not a mask
                as Megatron-Core defines it, but it passes this argument to here); None is one document. Or a step with
                a key-value cache.
            attn_mask_type: not used; Megatron-Core passes it.
        Returns:
            [s, b, n * v].
        """
        assert attention_bias is None and packed_seq_params is None
        if isinstance(attention_mask, CachedStep):
            return self._attend_to_cache(query, key, value, attention_mask)
        if self.cp_group.size() == 1:
            context = self._attend_from(query, key, value, first=0, starts=attention_mask)
        elif self.cp_comm_type == "a2a":
            context = self._attend_to_own_heads(query, key, value, attention_mask)
        else:
            context = self._attend_to_gathered_keys(query, key, value, attention_mask)
        return context.reshape(*context.shape[:2], -1)

    def _attend_to_cache(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: CachedStep
    ) -> torch.Tensor:
        if isinstance(step, TreeStep) and not step.has_branches:
            # One text a row: the kernels of training need no mask of all pairs, or skip its tiles.
            return self._attend_from(query, key, value, first=0, starts=None).flatten(2)
        kernel: Callable[..., torch.Tensor] = _sdpa
        if self.softcapping is not None:
            kernel = functools.partial(attend_with_scores, softcapping=self.softcapping)
        return step.attend(
            self.layer_number,
            query,
            key,
            value,
            scale=self.softmax_scale,
            window_size=self.window,
            kernel=kernel,
            adds_mask=self.softcapping is not None,
        )

    def _attend_from(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, first: int, starts: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend with queries at positions from `first` on, after the keys of all positions before."""
        window = None if self.window is None or self.window >= len(key) else self.window
        sees_all = starts is None and window is None and self.softcapping is None
        if sees_all and (first == 0 or not self.is_causal):
            return self._attend(_sdpa, query, key, value, is_causal=self.is_causal)
        if starts is None:
            starts = one_document(query.shape[1], len(key), device=query.device)
        where: dict[str, Any] = {"first_query": first, "num_queries": len(query), "num_keys": len(key)}
        where |= {"starts": starts, "window": window, "is_causal": self.is_causal}
        has_tiles = query.is_cuda and query.shape[-1] >= MIN_BLOCK_CHANNELS
        if has_tiles and not (self.training and self.dropout):
            kernel = functools.partial(attend_in_blocks, softcapping=self.softcapping)
            return self._attend(kernel, query, key, value, block_mask=self.masks.blocks(**where))
        mask = self.masks.dense(**where, dtype=query.dtype)
        if self.softcapping is not None:
            kernel = functools.partial(attend_with_scores, softcapping=self.softcapping)
            return self._attend(kernel, query, key, value, attn_mask=mask)
        return self._attend(_sdpa, query, key, value, attn_mask=mask)

    def _attend(
        self,
        kernel: Callable[..., torch.Tensor],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        **mask: Any,
    ) -> torch.Tensor:
        dropout = self.dropout if self.training else 0.0
        if dropout:
            mask["dropout_p"] = dropout
        with self._random_state(dropout):
            context = kernel(
                query.permute(1, 2, 0, 3),
                key.permute(1, 2, 0, 3),
                value.permute(1, 2, 0, 3),
                scale=self.softmax_scale,
                enable_gqa=query.shape[2] != key.shape[2],
                **mask,
            )
        return context.permute(2, 0, 1, 3)

    def _random_state(self, dropout: float) -> contextlib.AbstractContextManager[None]:
        """Tensor-parallel ranks hold different heads, so their dropout masks must differ.

        Under sequence parallelism the random state is already the rank's own here (Megatron-Core's rule).
        """
        if dropout == 0.0 or self.config.sequence_parallel:
            return contextlib.nullcontext()
        return tensor_parallel.get_cuda_rng_tracker().fork()

    def _attend_to_gathered_keys(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor | None
    ) -> torch.Tensor:
        cp_size, cp_rank = self.cp_group.size(), self.cp_group.rank()
        chunk = query.shape[0] // 2
        gathered = gather_sequence(torch.cat([key, value], dim=-1), group=self.cp_group)
        key, value = gathered.split([key.shape[-1], value.shape[-1]], dim=-1)
        contexts = []
        for half, chunk_index in ((query[:chunk], cp_rank), (query[chunk:], 2 * cp_size - 1 - cp_rank)):
            first = chunk_index * chunk
            end = first + chunk if self.is_causal else len(key)
            contexts.append(self._attend_from(half, key[:end], value[:end], first=first, starts=starts))
        return torch.cat(contexts)

    def _attend_to_own_heads(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor | None
    ) -> torch.Tensor:
        # Queries stay with the keys they share: rank i takes the i-th part of the query heads and of the key heads.
        value_width = value.shape[-1]
        value = functional.pad(value, (0, key.shape[-1] - value_width)) if value_width < key.shape[-1] else value
        shares = [part.unflatten(2, (self.cp_group.size(), -1)) for part in (query, key, value)]
        mine = sequence_to_heads(torch.cat(shares, dim=3), group=self.cp_group)
        query, key, value = mine.split([share.shape[3] for share in shares], dim=2)
        context = self._attend_from(query, key, value[..., :value_width], first=0, starts=starts)
        return heads_to_sequence(context, group=self.cp_group)


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """Call scaled_dot_product_attention, on a GPU with the fastest of its kernels that supports the call."""
    if not query.is_cuda:
        if options.get("enable_gqa") and query.requires_grad and _is_uneven(query, key):
            key, value = _for_each_query_head(key, query), _for_each_query_head(value, query)
            options["enable_gqa"] = False
        return functional.scaled_dot_product_attention(query, key, value, **options)
    with sdpa_kernel(_sdpa_kernels(query.device), set_priority=True):
        return functional.scaled_dot_product_attention(query, key, value, **options)


def _for_each_query_head(part: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Return keys or values with a copy of a head for each query head that shares it: [b, g, k, d] to [b, n, k, d]."""
    return part.repeat_interleave(query.shape[1] // part.shape[1], dim=1)


def _is_uneven(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Return whether threads share key heads less evenly than query heads.

    The CPU kernel's backward pass divides the heads of keys among the threads: 3 take 2 threads as long as 4. With
    a copy of a key head for each query head there are more to divide, which costs less than it gains.
    """
    batch, num_heads, num_groups = query.shape[0], query.shape[1], key.shape[1]
    threads = torch.get_num_threads()
    return -(-batch * num_groups // threads) * (num_heads // num_groups) > -(-batch * num_heads // threads)


@functools.cache
def _sdpa_kernels(device: torch.device) -> list[SDPBackend]:
    """Return the kernels in order of preference: cuDNN's first if it is the fastest, on Hopper GPUs and newer ones."""
    flash_first = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if torch.cuda.get_device_capability(device) < (9, 0):
        return flash_first
    return [SDPBackend.CUDNN_ATTENTION, *flash_first]


def attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    block_mask: BlockMask,
    scale: float | None,
    enable_gqa: bool,
    softcapping: float | None = None,
) -> torch.Tensor:
    """Call FlexAttention, compiled on a GPU: [b, n, q, d], [b, g, k, d], [b, g, k, v] to [b, n, q, v]."""
    kernel: Any = _compiled_flex_attention() if query.is_cuda else flex_attention
    cap = None if softcapping is None else _cap_scores(softcapping)
    result = kernel(query, key, value, score_mod=cap, block_mask=block_mask, scale=scale, enable_gqa=enable_gqa)
    assert isinstance(result, torch.Tensor)
    return result


@functools.cache
def _cap_scores(cap: float) -> Callable[..., torch.Tensor]:
    """Return FlexAttention's score function, the same one for the same bound, so that it is compiled once."""

    def bound(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return soft_cap(score, cap)

    return bound


def attend_with_scores(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor,
    scale: float | None,
    enable_gqa: bool,
    softcapping: float,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Attend through the matrix of scores, each bounded: [b, n, q, d], [b, g, k, d], [b, g, k, v] to [b, n, q, v].

    Args:
        attn_mask: [b, 1, q, k], added to the bounded scores.
    """
    if enable_gqa:
        key, value = _for_each_query_head(key, query), _for_each_query_head(value, query)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    probabilities = (soft_cap(scores, softcapping) + attn_mask).softmax(dim=-1, dtype=torch.float32)
    return functional.dropout(probabilities.to(query.dtype), p=dropout_p) @ value


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """Return one compiled kernel per process for all layers.

    It is recompiled for each shape, of which training has one, or two under context parallelism: kernels with dynamic
    shapes are slower.
    """
    return torch.compile(flex_attention, dynamic=False)


@functools.lru_cache(maxsize=8)
def one_document(batch: int, length: int, *, device: torch.device) -> torch.Tensor:
    """Return the starts of sequences of one document each: [b, S] int32 zeros, the same tensor for the same shape."""
    return torch.zeros(batch, length, dtype=torch.int32, device=device)
