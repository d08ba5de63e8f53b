"""Compute the probabilities of attention from the queries and keys that reach the core attention.

s: tokens, b: batch, n: query heads, g: key-value heads of this tensor-parallel rank, d: channels of a head.
"""

import torch

from trainer.model.activation import soft_cap
from trainer.model.attention import SdpaCoreAttention, one_document
from trainer.model.key_intervals import build_dense_mask, find_intervals


def attention_probabilities(core: SdpaCoreAttention, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return what each query of a sequence of one document gives to each key, with the layer's scale, window and cap.

    The fused kernels that compute attention do not return these probabilities.

    Args:
        query: [s, b, n, d], after rotation and norms.
        key: [s, b, g, d], likewise.
    Returns:
        [b, n, s, s] fp32; rows (queries) sum to 1.
    """
    queries, keys = query.permute(1, 2, 0, 3).float(), key.permute(1, 2, 0, 3).float()
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scale = query.shape[-1] ** -0.5 if core.softmax_scale is None else core.softmax_scale
    scores = queries @ keys.transpose(-1, -2) * scale
    if core.softcapping is not None:
        scores = soft_cap(scores, core.softcapping)
    length, batch = query.shape[:2]
    intervals = find_intervals(
        one_document(batch, length, device=query.device),
        first_query=0,
        num_queries=length,
        window=core.window,
        is_causal=core.is_causal,
    )
    mask = build_dense_mask(intervals, num_keys=length)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
