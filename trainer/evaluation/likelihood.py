"""Compute log-likelihoods of continuations, and generate texts, with one model under any layout.

Rank 0 asks, and the other ranks follow.
v: tokens of the vocabulary.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from trainer.evaluation.prefix_trees import Question, Tree, build_batches, build_trees
from trainer.inference.loading import LoadedModel
from trainer.inference.prompt_file import Completion, complete_in_order
from trainer.inference.request import GenerationRequest
from trainer.inference.stages import run_stages, share_batches
from trainer.model.token_tree import TreeStep
from trireme.errors import EXIT_STOPPED, RunStopped

_NO_LIMIT = datetime.timedelta(days=3650)
"""Followers wait for the next request as long as rank 0 takes."""
_TOKENS_PER_TEXT = 256
"""Tokens of a batch for each text of the batch size, padding included."""
_CPU_TOKENS = 512
"""Tokens of a batch on a CPU at most: with more, activations leave its caches (4,096 took twice the time, one core)."""
_PLACES_PER_TEXT = 64
"""Tokens of a batch whose logits are kept, for each text of the batch size."""
_LOGITS_AT_ONCE = 256
"""Rows of logits that are normalized at once."""


@dataclass(frozen=True, kw_only=True)
class ContinuationRequest:
    """Ask for the log-likelihood of tokens after others; both are not empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ContinuationScore:
    """Hold the log-likelihood of a continuation."""

    token_logprobs: tuple[float, ...]
    """Natural logarithms, of each token given all before it; of the last ones that fit into the model's context."""
    is_greedy: bool
    """Whether each of these tokens is the most likely one at its place."""

    @property
    def logprob(self) -> float:
        """Return the sum."""
        return float(np.sum(self.token_logprobs, dtype=np.float64))


class LikelihoodModel:
    """Score continuations and generate texts with a loaded model.

    Rank 0 calls `score` and `generate`, at last `stop`; all other ranks call `follow` once.

    Args:
        loaded: its weights are packed, see `GPT.pack_weights`: nothing else can use it afterwards.
        batch_size: bounds what a replica computes at once: 256 tokens for each text (on a CPU 512 in all), of which
            the logits of 64 are kept. One text is computed at once, however long.
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int) -> None:
        self.loaded = loaded
        loaded.model.pack_weights()
        max_tokens = batch_size * _TOKENS_PER_TEXT
        if loaded.world.device.type == "cpu":
            max_tokens = min(max_tokens, _CPU_TOKENS)
        self._limits = {"max_tokens": max_tokens, "max_places": batch_size * _PLACES_PER_TEXT}
        self._control: distributed.ProcessGroup | None = None
        if loaded.world.world_size > 1:
            self._control = distributed.new_group(backend="gloo", timeout=_NO_LIMIT)

    def score(
        self, requests: Sequence[ContinuationRequest], *, show: Callable[[int], object] = lambda done: None
    ) -> list[ContinuationScore]:
        """Score continuations; the order is that of the requests.

        What texts have in common at their beginnings, such as the answers to one question, is computed once. A text
        that is longer than the model's context loses its beginning, as in lm-evaluation-harness. Columns that pad the
        vocabulary have no probability.

        Args:
            show: receives the number of requests that are done.
        """
        assert all(request.context and request.continuation for request in requests)
        self._send(("score", tuple(requests)))
        return self._score(requests, show=show)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Generate texts, in the order of the requests.

        Raises:
            RunStopped: the model's logits are not finite.
        """
        self._send(("generate", None))
        try:
            return list(complete_in_order(self.loaded.new_generator(), iter(requests)))
        except ValueError as error:
            raise RunStopped(str(error), exit_code=EXIT_STOPPED) from error
        finally:
            self.loaded.runner.stop()

    def follow(self) -> None:
        """Take part in what rank 0 asks, until it calls `stop`."""
        while True:
            received: list[Any] = [None]
            distributed.broadcast_object_list(received, src=0, group=self._control, device=torch.device("cpu"))
            kind, requests = received[0]
            if kind == "score":
                self._score(requests)
            elif kind == "generate":
                self.loaded.runner.follow()
            else:
                return

    def stop(self) -> None:
        """End `follow` on the other ranks."""
        self._send(("stop", None))

    def _send(self, message: tuple[str, Any]) -> None:
        if self._control is not None:
            distributed.broadcast_object_list([message], src=0, group=self._control, device=torch.device("cpu"))

    def _score(
        self, requests: Sequence[ContinuationRequest], *, show: Callable[[int], object] = lambda done: None
    ) -> list[ContinuationScore]:
        """Return scores on rank 0, else nothing; all ranks call this."""
        length = self.loaded.context_length
        questions = []
        for request in requests:
            whole = (*request.context, *request.continuation)[-(length + 1) :]
            targets = whole[-min(len(request.continuation), len(whole) - 1) :]
            questions.append(Question(tokens=whole[:-1], targets=targets))
        # A layer's products take some 24 h^2 operations for each token, and its attention 4 h for each pair, which a
        # kernel with a mask computes at a third of their speed.
        pair_cost = 1 / (2 * self.loaded.config.hidden_size)
        trees = build_trees(questions, **self._limits, pair_cost=pair_cost)
        batches = build_batches(trees, **self._limits)
        found: dict[int, ContinuationScore] = {}
        for part in share_batches(batches, self._score_batch, world=self.loaded.world):
            found |= part
            show(len(found))
        return [found[number] for number in range(len(requests))] if found else []

    @torch.inference_mode()
    def _score_batch(self, trees: Sequence[Tree]) -> dict[int, ContinuationScore]:
        """Return scores by number of the request, on the first tensor-parallel rank of the last stage."""
        model, world = self.loaded.model, self.loaded.world
        places = [(row, place) for row, tree in enumerate(trees) for place in tree.places]
        step = TreeStep([tree.depths for tree in trees], places=places, device=world.device)
        tokens = np.zeros((len(trees), step.num_new), np.int64)
        for row, tree in enumerate(trees):
            tokens[row, : len(tree)] = tree.tokens
        ids = torch.from_numpy(tokens).to(world.device)

        def call() -> torch.Tensor:
            # Megatron-Core passes the step on to the core attention, as the attention mask.
            output: torch.Tensor = model(ids, step.position_ids, step)
            return output

        output = run_stages(model, call, world=world, num_rows=len(trees), num_tokens=step.num_new)
        if output is None or world.groups.tp.rank() != 0:
            return {}
        where = {place: number for number, place in enumerate(places)}
        branches = [(row, branch) for row, tree in enumerate(trees) for branch in tree.branches]
        rows = [where[row, place] for row, branch in branches for place in branch.places]
        targets = [token for _, branch in branches for token in branch.targets]
        logprobs, is_best = _pick(output[:, 0], rows=torch.tensor(rows), targets=torch.tensor(targets))
        scores, first = {}, 0
        for _, branch in branches:
            end = first + len(branch.targets)
            scores[branch.number] = ContinuationScore(
                token_logprobs=tuple(logprobs[first:end].tolist()), is_greedy=bool(is_best[first:end].all())
            )
            first = end
        return scores


def _pick(logits: torch.Tensor, *, rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target in its row of the logits, and whether it is the most likely token.

    Args:
        logits: [rows, v].
        rows, targets: [n] int64 on the CPU.
    Returns:
        [n] fp32 and [n] bool on the CPU.
    """
    logprobs, is_best = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.bool)
    for first in range(0, len(logits), _LOGITS_AT_ONCE):
        part = logits[first : first + _LOGITS_AT_ONCE].float().log_softmax(dim=-1)
        here = (rows >= first) & (rows < first + len(part))
        row, target = (rows[here] - first).to(logits.device), targets[here].to(logits.device)
        logprobs[here] = part[row, target].cpu()
        is_best[here] = (part.argmax(dim=-1)[row] == target).cpu()
    return logprobs, is_best
