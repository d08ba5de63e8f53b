"""Compute everything that a probe shows about a sequence of tokens, under any layout.

s: tokens, n: query heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trainer.interpret.attribution import Attribution, attribute
from trainer.interpret.capture import Captured, capture
from trainer.interpret.lens import Distribution, read_layers
from trainer.interpret.neurons import ExpertActivity, Neuron, choose_neurons, sum_up_experts
from trainer.interpret.options import ProbeOptions
from trainer.interpret.passes import run_forward
from trainer.model.gpt import GPT
from trainer.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Hold what a model does with a sequence of tokens."""

    tokens: tuple[int, ...]
    target: int
    """The token after the last one that is asked for."""
    output: tuple[Distribution, ...]
    """After each token: what the model predicts; the token that is asked for is the one that follows."""
    lens: dict[int, tuple[Distribution, ...]]
    """The same from the hidden states of each layer; 0 is the embeddings."""
    attention: dict[int, torch.Tensor]
    """[n, s, s] fp32 by number of the layer: what each token (row) gives to each token up to it."""
    neurons: dict[int, tuple[Neuron, ...]]
    """By number of the layer."""
    experts: dict[int, ExpertActivity]
    """By number of the layer; of layers with experts."""
    attribution: Attribution | None


def probe(
    model: GPT,
    *,
    world: World,
    tokens: Sequence[int],
    target: int | None,
    vocab_size: int,
    options: ProbeOptions,
) -> Probe | None:
    """Run a sequence through a model and look at it; all ranks call this.

    Args:
        model: this rank's stage, in evaluation mode, with weights that are not packed.
        target: the token after the last one; None takes the most likely one.
        vocab_size: tokens that have text.
    Returns:
        on rank 0, else None.
    """
    with capture(model, layers=options.layers) as captured:
        logits = run_forward(model, world=world, tokens=tokens)
    if target is None:
        target = _most_likely(logits, world=world, vocab_size=vocab_size)
    read = read_layers(
        model,
        captured.hidden,
        logits,
        world=world,
        targets=[*tokens[1:], target],
        top_k=options.top_k,
        vocab_size=vocab_size,
    )
    parts = _gather((captured, read), world=world)
    attribution = None
    if options.num_steps:
        attribution = attribute(
            model,
            world=world,
            tokens=tokens,
            target=target,
            num_steps=options.num_steps,
            batch_size=options.batch_size,
            baseline=options.baseline,
        )
    if world.rank != 0:
        return None
    whole = _join([part[0] for part in parts])
    lens = {number: tuple(row) for part in parts for number, row in part[1].items()}
    return Probe(
        tokens=tuple(tokens),
        target=target,
        output=lens.pop(-1),
        lens=dict(sorted(lens.items())),
        attention=whole.attention,
        neurons={
            number: tuple(choose_neurons(values, whole.neuron_norms[number], count=options.num_neurons))
            for number, values in whole.neurons.items()
        },
        experts={number: sum_up_experts(weights) for number, weights in whole.routes.items()},
        attribution=attribution,
    )


def _most_likely(logits: torch.Tensor | None, *, world: World, vocab_size: int) -> int:
    """Return the most likely next token, on all ranks."""
    found = None if logits is None else int(logits[0, -1, :vocab_size].argmax())
    if world.world_size == 1:
        assert found is not None
        return found
    parts: list[Any] = [None] * world.world_size
    distributed.all_gather_object(parts, found)
    return next(part for part in parts if part is not None)


def _gather(mine: Any, *, world: World) -> list[Any]:
    """Return what the ranks of the first replica have, by stage and then by tensor-parallel rank, on rank 0."""
    if world.world_size == 1:
        return [mine]
    parts: list[Any] | None = [None] * world.world_size if world.rank == 0 else None
    place = (world.pp_rank, world.tp_rank)
    distributed.gather_object((place, mine) if world.dp_rank == 0 else None, parts, dst=0)
    known = [part for part in parts or [] if part is not None]
    return [part for _, part in sorted(known, key=lambda part: part[0])]


def _join(parts: Sequence[Captured]) -> Captured:
    """Join layers of the stages, and heads and neurons of the tensor-parallel ranks, which are in order."""
    whole = Captured()
    for name, axis in (("attention", 0), ("neurons", 1), ("neuron_norms", 0)):
        pieces: dict[int, list[torch.Tensor]] = {}
        for part in parts:
            for number, tensor in getattr(part, name).items():
                pieces.setdefault(number, []).append(tensor)
        joined = {number: torch.cat(tensors, dim=axis) for number, tensors in sorted(pieces.items())}
        setattr(whole, name, joined)
    for part in parts:
        whole.routes |= part.routes
    whole.routes = dict(sorted(whole.routes.items()))
    return whole
