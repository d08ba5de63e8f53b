"""Attribute the log-probability of a token to the tokens before it: integrated gradients, and occlusion.

b: points of the path at once, s: tokens, h: hidden size.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import distributed, nn

from trainer.interpret.passes import Objective, run_backward, run_forward
from trainer.model.gpt import GPT
from trainer.parallel.world import World

Baseline = Literal["zero", "mean"]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Hold what each token contributes to the log-probability of one that follows."""

    scores: tuple[float, ...]
    """Integrated gradients by token, in natural units; positive ones raise the probability."""
    occlusion: tuple[float, ...]
    """The log-probability less that with the token's word embedding replaced by the baseline's, by token."""
    value: float
    """The log-probability."""
    baseline_value: float
    """The log-probability at the baseline."""
    num_steps: int
    baseline: Baseline

    @property
    def completeness_gap(self) -> float:
        """Return the sum of scores less the difference of both values: 0 if the integral were exact."""
        return float(np.sum(self.scores)) - (self.value - self.baseline_value)


def attribute(
    model: GPT,
    *,
    world: World,
    tokens: Sequence[int],
    target: int,
    num_steps: int,
    batch_size: int,
    baseline: Baseline = "mean",
) -> Attribution | None:
    """Integrate gradients of log p(target | tokens) with respect to word embeddings; all ranks call this.

    The path is straight, from the baseline to the embeddings, at the points of Gauss-Legendre quadrature; embeddings
    of positions stay as they are. captum's IntegratedGradients computes the same with method="gausslegendre".

    A deep transformer changes so abruptly along the path that the integral of few points may be far off:
    `Attribution.completeness_gap` shows by how much. Occlusion is exact, and says what one token alone changes.

    Args:
        target: the token after the last one.
        num_steps: points of the path.
        baseline: word embeddings of all zeros, or the mean of those of the vocabulary.
    Returns:
        on rank 0, else None.
    Source: Sundararajan et al. 2017 (arXiv:1703.01365).
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)
    nodes, weights = (nodes + 1) / 2, weights / 2  # from [-1, 1] to [0, 1]
    # Then both ends, of which only the values are used.
    points = np.concatenate([nodes, [0.0, 1.0]])
    weights = np.concatenate([weights, [0.0, 0.0]])

    def objective(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1].float().log_softmax(dim=-1)[:, target]

    values: list[float] = []
    sums: np.ndarray | None = None
    with _frozen(model):
        for first in range(0, len(points), batch_size):
            share = slice(first, first + batch_size)
            size = len(points[share])
            alphas = np.repeat(points[share, None], len(tokens), axis=1)
            with _EmbeddingPath(model, alphas, baseline=baseline) as path:
                found = run_backward(model, world=world, tokens=tokens, num_rows=size, objective=objective)
            if found is not None:
                values += found.tolist()
            if model.pre_process:
                part = path.integrate(weights[share])
                sums = part if sums is None else sums + part
    without = _occlude(model, world=world, tokens=tokens, objective=objective, batch_size=batch_size, baseline=baseline)
    values, scores = _collect(world, values=values + without, scores=sums)
    if scores is None:
        return None
    baseline_value, value = values[num_steps : num_steps + 2]
    return Attribution(
        scores=tuple(scores.tolist()),
        occlusion=tuple(value - other for other in values[num_steps + 2 :]),
        value=value,
        baseline_value=baseline_value,
        num_steps=num_steps,
        baseline=baseline,
    )


def _occlude(
    model: GPT, *, world: World, tokens: Sequence[int], objective: Objective, batch_size: int, baseline: Baseline
) -> list[float]:
    """Return the objective without each token in turn, on the last stage, else nothing."""
    values: list[float] = []
    alphas = 1.0 - np.eye(len(tokens))
    for first in range(0, len(tokens), batch_size):
        rows = alphas[first : first + batch_size]
        with _EmbeddingPath(model, rows, baseline=baseline):
            logits = run_forward(model, world=world, tokens=tokens, num_rows=len(rows))
        if logits is not None:
            values += objective(logits).tolist()
    return values


class _EmbeddingPath:
    """Put word embeddings between the baseline and their own while the first stage runs, and keep their gradients.

    Args:
        alphas: [b, s], 0 for the baseline, 1 for the token's own embedding.
    """

    def __init__(self, model: GPT, alphas: np.ndarray, *, baseline: Baseline) -> None:
        self._model, self._alphas, self._baseline = model, alphas, baseline
        self._handle: Any = None
        self._leaf: torch.Tensor | None = None
        self._difference: torch.Tensor | None = None

    def __enter__(self) -> "_EmbeddingPath":
        if self._model.pre_process:
            self._handle = self._model.embedding.word_embeddings.register_forward_hook(self._replace)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _replace(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Return points of the path: [b, s, h] for [b, s, h]."""
        start = _mean_embedding(self._model) if self._baseline == "mean" else torch.zeros_like(output[0, 0])
        self._difference = (output - start).detach()
        alphas = torch.tensor(self._alphas, dtype=torch.float32, device=output.device)[..., None]
        self._leaf = (start + alphas * self._difference).to(output.dtype).detach().requires_grad_()
        return self._leaf

    def integrate(self, weights: np.ndarray) -> np.ndarray:
        """Return the weighted sum of gradients, times the embeddings' distance from the baseline: [s] fp64."""
        assert self._leaf is not None and self._leaf.grad is not None and self._difference is not None
        products = (self._leaf.grad.double() * self._difference.double()).sum(dim=-1).cpu().numpy()
        # At the baseline, whose weight is 0, gradients may be infinite: norms of zeros.
        counted = weights != 0
        result: np.ndarray = (products[counted] * weights[counted, None]).sum(axis=0)
        return result


def _mean_embedding(model: GPT) -> torch.Tensor:
    """Return the mean of the word embeddings, without those that pad the vocabulary: [h]."""
    table, group = model.embedding.word_embeddings, model.pg_collection.tp
    first = table.vocab_start_index
    size = model.unpadded_vocab_size or model.vocab_size
    total = table.weight[: max(0, size - first)].detach().float().sum(dim=0)
    if group.size() > 1:
        distributed.all_reduce(total, group=group)
    return (total / size).to(table.weight.dtype)


@contextlib.contextmanager
def _frozen(model: GPT) -> Iterator[None]:
    """Compute no gradients of weights."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def _collect(
    world: World, *, values: Sequence[float], scores: np.ndarray | None
) -> tuple[list[float], np.ndarray | None]:
    """Return values and scores, which different stages have, on rank 0."""
    parts: list[Any] = [(list(values), scores)]
    if world.world_size > 1:
        mine = (list(values), scores) if (world.tp_rank, world.dp_rank) == (0, 0) else ([], None)
        parts = [None] * world.world_size
        distributed.all_gather_object(parts, mine)
    if world.rank != 0:
        return [], None
    return next(part[0] for part in parts if part[0]), next(part[1] for part in parts if part[1] is not None)
