"""Compute log-likelihoods of continuations, and generate texts, with one model under any layout.

Rank 0 asks, and the other ranks follow.
b: rows of a batch, s: tokens of its longest row, v: tokens of the vocabulary.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from trainer.inference.batch_model import BatchModel, InputRow
from trainer.inference.loading import LoadedModel
from trainer.inference.prompt_file import Completion, complete_in_order
from trainer.inference.request import GenerationRequest
from trireme.errors import EXIT_STOPPED, RunStopped

_NO_LIMIT = datetime.timedelta(days=3650)
"""Followers wait for the next request as long as rank 0 takes."""


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
        loaded: with weights that are not packed.
        batch_size: rows at once, per replica.
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int) -> None:
        self.loaded = loaded
        self._rows = BatchModel(loaded.model, config=loaded.config, world=loaded.world, batch_size=batch_size)
        self._control: distributed.ProcessGroup | None = None
        if loaded.world.world_size > 1:
            self._control = distributed.new_group(backend="gloo", timeout=_NO_LIMIT)

    def score(
        self, requests: Sequence[ContinuationRequest], *, show: Callable[[int], object] = lambda done: None
    ) -> list[ContinuationScore]:
        """Score continuations, those of similar length together; the order is that of the requests.

        A text that is longer than the model's context loses its beginning, as in lm-evaluation-harness. Columns that
        pad the vocabulary have no probability.

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
        # Choices of one token after the same context share a row: the last token is a label only.
        places: dict[tuple[int, ...], int] = {}
        targets: list[list[tuple[int, ...]]] = []
        where: list[tuple[int, int]] = []
        for request in requests:
            whole = (*request.context, *request.continuation)[-(length + 1) :]
            target = whole[-min(len(request.continuation), len(whole) - 1) :]
            row = places.setdefault(whole[:-1], len(places))
            if row == len(targets):
                targets.append([])
            where.append((row, len(targets[row])))
            targets[row].append(target)
        rows = [InputRow(tokens=np.array(tokens, dtype=np.int64)) for tokens in places]

        def take(output: torch.Tensor, numbers: Sequence[int]) -> list[list[ContinuationScore]]:
            return [
                [_score_target(output[index], target, end=len(rows[number])) for target in targets[number]]
                for index, number in enumerate(numbers)
            ]

        found: dict[int, list[ContinuationScore]] = {}
        for part in self._rows.compute(rows, take):
            found |= part
            show(sum(map(len, found.values())))
        return [found[row][number] for row, number in where] if found else []


def _score_target(logits: torch.Tensor, target: Sequence[int], *, end: int) -> ContinuationScore:
    """Score the tokens at the end of a row: logits [s, v], of which `end` positions are not padding."""
    logprobs = logits[end - len(target) : end].float().log_softmax(dim=-1)
    ids = torch.tensor(target, device=logprobs.device)
    values = logprobs.gather(1, ids[:, None])[:, 0]
    is_greedy = bool((logprobs.argmax(dim=-1) == ids).all())
    return ContinuationScore(token_logprobs=tuple(values.tolist()), is_greedy=is_greedy)
