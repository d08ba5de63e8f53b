"""Choose the neurons of MLPs that write most into the hidden states, and sum up what experts were given.

s: tokens, f: neurons of an MLP, e: experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Hold the activity of one neuron of an MLP."""

    index: int
    """In its layer, from 0."""
    norm: float
    """Of what it adds to the hidden states at activation 1."""
    activations: tuple[float, ...]
    """By token."""


@dataclass(frozen=True, kw_only=True)
class ExpertActivity:
    """Hold the decisions of a layer's router."""

    shares: tuple[float, ...]
    """Of the choices of all tokens, by expert; they sum to 1."""
    chosen: tuple[tuple[int, ...], ...]
    """Experts of each token, highest weight first."""
    weights: tuple[tuple[float, ...], ...]
    """Their weights."""


def choose_neurons(activations: torch.Tensor, norms: torch.Tensor, *, count: int) -> list[Neuron]:
    """Return the neurons with the highest share of all |activation| * norm of a token, at any token, highest first.

    Shares, since a model's first token often has activations far beyond all others.

    Args:
        activations: [s, f].
        norms: [f].
    """
    written = activations.abs() * norms
    shares = (written / written.sum(dim=1, keepdim=True).clamp(min=torch.finfo(written.dtype).tiny)).amax(dim=0)
    best = shares.topk(min(count, len(shares))).indices.tolist()
    return [
        Neuron(index=index, norm=norms[index].item(), activations=tuple(activations[:, index].tolist()))
        for index in best
    ]


def sum_up_experts(weights: torch.Tensor) -> ExpertActivity:
    """Return what a router decided: weights [s, e], 0 for experts that were not chosen."""
    chosen: list[Sequence[int]] = []
    for row in weights:
        order = row.argsort(descending=True, stable=True)
        chosen.append([expert for expert in order.tolist() if row[expert] > 0])
    counts = (weights > 0).sum(dim=0).double()
    return ExpertActivity(
        shares=tuple((counts / counts.sum().clamp(min=1)).tolist()),
        chosen=tuple(tuple(experts) for experts in chosen),
        weights=tuple(tuple(row[list(experts)].tolist()) for row, experts in zip(weights, chosen, strict=True)),
    )
