"""Read hidden states of every layer through the final norm and the output layer (the logit lens).

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
L: layers, s: tokens, h: hidden size, v: tokens of the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trainer.model.activation import soft_cap
from trainer.model.gpt import GPT
from trainer.parallel.world import World

_BITS = 1 / torch.log(torch.tensor(2.0)).item()
"""Bits in a natural unit of information."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Summarize a distribution over the next token."""

    top: tuple[tuple[int, float], ...]
    """The most likely tokens with their probabilities, most likely first."""
    probability: float
    """Of the token that is asked for."""
    surprisal: float
    """Of that token, in bits."""
    rank: int
    """Of that token, from 1."""
    entropy: float
    """Bits."""
    divergence: float = 0.0
    """Bits from the model's own distribution to this one, KL(model || this): 0 is the same."""


def read_layers(
    model: GPT,
    hidden: Mapping[int, torch.Tensor],
    logits: torch.Tensor | None,
    *,
    world: World,
    targets: Sequence[int],
    top_k: int,
    vocab_size: int,
) -> dict[int, list[Distribution]]:
    """Read all layers; all ranks call this.

    Args:
        hidden: of this stage's layers: [s, h] by number; 0 is the embeddings.
        logits: [1, s, v] of the model's own output, on the last stage.
        targets: s tokens, of each position that which follows.
        vocab_size: tokens that have text.
    Returns:
        distributions of each layer at each position, with key -1 for the model's own output, on the ranks of the last
        stage; empty on others.
    """
    parts: list[Any] = [dict(hidden)]
    if world.pp_size > 1:
        parts = [None] * world.pp_size
        distributed.all_gather_object(parts, dict(hidden), group=world.groups.pp)
    if not model.post_process:
        return {}
    assert logits is not None
    whole: dict[int, torch.Tensor] = {number: states for part in parts for number, states in part.items()}
    own = logits[0].float().log_softmax(dim=-1)
    summarize = _Summary(own, targets=targets, top_k=top_k, vocab_size=vocab_size)
    found = {-1: summarize(own)}
    for number in sorted(whole):
        found[number] = summarize(project(model, whole[number].to(own.device)).float().log_softmax(dim=-1))
    return found


@torch.no_grad()
def project(model: GPT, hidden: torch.Tensor) -> torch.Tensor:
    """Return the logits of hidden states, as after the last layer: [s, h] to [s, v]; on all ranks of the last stage.

    Tokens that pad the vocabulary have minus infinity.
    """
    states = hidden[:, None].to(model.config.params_dtype)
    if model.decoder.final_layernorm is not None:
        states = model.decoder.final_layernorm(states)
    weight = model.shared_embedding_or_output_weight() if model.share_embeddings_and_output_weights else None
    logits = model.output_layer(states, weight=weight, runtime_gather_output=True)[0][:, 0]
    if model.final_logit_softcapping is not None:
        logits = soft_cap(logits, model.final_logit_softcapping)
    if model.unpadded_vocab_size is not None:
        logits[:, model.unpadded_vocab_size :] = -torch.inf
    assert isinstance(logits, torch.Tensor)
    return logits


class _Summary:
    """Summarize log-probabilities [s, v] of each position."""

    def __init__(self, own: torch.Tensor, *, targets: Sequence[int], top_k: int, vocab_size: int) -> None:
        self._own, self._top_k, self._vocab_size = own, top_k, vocab_size
        self._targets = torch.tensor(list(targets), device=own.device)[:, None]

    def __call__(self, logprobs: torch.Tensor) -> list[Distribution]:
        probabilities = logprobs.exp()
        best = probabilities[:, : self._vocab_size].topk(min(self._top_k, self._vocab_size), dim=-1)
        chosen = logprobs.gather(1, self._targets)
        ranks = (logprobs > chosen).sum(dim=-1) + 1
        # 0 * -inf is 0 here: padding of the vocabulary.
        entropy = -(probabilities * logprobs).nan_to_num(nan=0.0).sum(dim=-1) * _BITS
        divergence = (self._own.exp() * (self._own - logprobs)).nan_to_num(nan=0.0).sum(dim=-1) * _BITS
        columns = (best.indices, best.values, chosen[:, 0], ranks, entropy, divergence)
        return [
            Distribution(
                top=tuple(zip(ids, values, strict=True)),
                probability=float(torch.tensor(logprob, dtype=torch.float64).exp()),
                surprisal=-logprob * _BITS,
                rank=rank,
                entropy=bits,
                divergence=max(distance, 0.0),
            )
            for ids, values, logprob, rank, bits, distance in zip(*(part.tolist() for part in columns), strict=True)
        ]
