"""Evaluate the model in training on multiple-choice tasks, under every layout and engine.

b: rows of a micro batch, s: tokens of a row.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.suite.items import Item, read_items
from trainer.suite.scoring import encode_choice, score_items
from trireme.tokenizer.tokenizer import Tokenizer

_ROW_MULTIPLE = 32
"""Rows have a multiple of this length, so that compiled models meet few shapes."""


@dataclass(frozen=True, kw_only=True)
class SuiteLayout:
    """Hold how rows are spread over this run's ranks."""

    dp_rank: int
    dp_size: int
    micro_batch_size: int
    """Rows of model.seq_length tokens that fit into memory."""
    seq_length: int
    """Longest row."""
    length_multiple: int
    """Divisor of every row's length: tensor-parallel size times twice the context-parallel size."""
    num_microbatches_multiple: int
    """Divisor of the number of micro batches: pipeline stages with virtual stages, else 1."""
    max_microbatches: int
    """Of one pass, a multiple of num_microbatches_multiple."""


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """Hold the result of an evaluation, the same on every rank."""

    scores: dict[str, float]
    """By task and score: cloze_en_acc, cloze_en_acc_norm, cloze_en_acc_stderr."""
    num_items: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Row:
    tokens: list[int]
    num_targets: int
    """The last of the next tokens, which are scored."""


class SuiteEvaluation:
    """Score tasks by the log-likelihoods of their choices; all ranks use it.

    A choice is scored as `trireme harness` scores it on the same checkpoint: see `trainer.suite.items`.

    Args:
        tasks: items by name.
        layout: of the run.
        is_collecting: whether this rank's losses count: False where another rank has copies of them.
    """

    def __init__(
        self, tasks: dict[str, list[Item]], *, tokenizer: Tokenizer, layout: SuiteLayout, is_collecting: bool
    ) -> None:
        self._tasks, self._layout, self._is_collecting = tasks, layout, is_collecting
        self._rows: list[_Row] = []
        """Of every choice of every item, in order."""
        for items in tasks.values():
            for item in items:
                self._rows += [
                    _build_row(*encode_choice(item, choice, tokenizer=tokenizer), length=layout.seq_length)
                    for choice in range(len(item.choices))
                ]
        self._sums: dict[int, float] = {}
        self.last_sums: list[float] = []
        """Log-likelihood of every choice of every item, in order, in the last evaluation."""

    def run(
        self,
        *,
        evaluate: Callable[..., tuple[float, float]],
        read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]],
    ) -> SuiteResult:
        """Evaluate; all ranks call this.

        Args:
            evaluate: as `Engine.evaluate`.
            read: gets each step's micro batches by calling its argument; an exception ends the evaluation.
        """
        started = time.monotonic()
        self._sums = {}
        steps = list(self._plan())
        batches = iter(map(self._build_batches, steps))
        for _ in steps:
            evaluate(read(batches.__next__), observe=self._observe)
        sums = self.last_sums = self._gather()
        scores: dict[str, float] = {}
        place = 0
        for name, items in self._tasks.items():
            logprobs = []
            for item in items:
                logprobs.append(sums[place : place + len(item.choices)])
                place += len(item.choices)
            scores |= {f"{name}_{score}": value for score, value in score_items(items, logprobs).items()}
        return SuiteResult(
            scores=scores,
            num_items=sum(map(len, self._tasks.values())),
            seconds=time.monotonic() - started,
        )

    def _plan(self) -> Iterator[list[int]]:
        """Yield the rows of each pass over all ranks: those of similar length together, the longest first."""
        layout = self._layout
        order = sorted(range(len(self._rows)), key=lambda number: len(self._rows[number].tokens), reverse=True)
        while order:
            length = self._padded_length(len(self._rows[order[0]].tokens))
            per_batch = layout.micro_batch_size * max(1, layout.seq_length // length)
            count = per_batch * layout.dp_size * layout.max_microbatches
            yield order[:count]
            order = order[count:]

    def _padded_length(self, length: int) -> int:
        multiple = math.lcm(_ROW_MULTIPLE, self._layout.length_multiple)
        return min(-(-length // multiple) * multiple, self._layout.seq_length)

    def _build_batches(self, numbers: Sequence[int]) -> list[MicroBatch]:
        """Build this rank's micro batches of one pass; every rank has as many, of the same shape."""
        layout = self._layout
        length = self._padded_length(max(len(self._rows[number].tokens) for number in numbers))
        per_batch = layout.micro_batch_size * max(1, layout.seq_length // length)
        needed = -(-len(numbers) // (per_batch * layout.dp_size))
        multiple = layout.num_microbatches_multiple
        num_microbatches = -(-needed // multiple) * multiple
        # As few rows of padding as possible.
        per_batch = -(-len(numbers) // (layout.dp_size * num_microbatches))
        shape = (num_microbatches, per_batch)
        total = layout.dp_size * num_microbatches * per_batch
        padded = [*numbers, *([PADDING] * (total - len(numbers)))]
        mine = padded[layout.dp_rank :: layout.dp_size]
        return [
            self._build_batch(mine[first : first + per_batch], length=length)
            for first in range(0, shape[0] * per_batch, per_batch)
        ]

    def _build_batch(self, numbers: Sequence[int], *, length: int) -> MicroBatch:
        tokens = torch.zeros(len(numbers), length + 1, dtype=torch.int64)
        loss_mask = torch.zeros(len(numbers), length, dtype=torch.float32)
        for index, number in enumerate(numbers):
            if number == PADDING:
                continue
            row = self._rows[number]
            size = len(row.tokens)
            tokens[index, :size] = torch.tensor(row.tokens)
            loss_mask[index, size - 1 - row.num_targets : size - 1] = 1
        return MicroBatch(
            tokens=tokens[:, :-1].contiguous(),
            labels=tokens[:, 1:].contiguous(),
            loss_mask=loss_mask,
            position_ids=torch.arange(length).expand(len(numbers), length).contiguous(),
            sample_ids=tuple(numbers),
        )

    def _observe(self, losses: torch.Tensor, batch: MicroBatch) -> None:
        """Add up the losses [b, s] of each row; with context parallelism, this rank has a part of each."""
        if not self._is_collecting:
            return
        sums = (losses.double() * batch.loss_mask).sum(dim=1).tolist()
        for number, value in zip(batch.sample_ids, sums, strict=True):
            if number != PADDING:
                self._sums[number] = self._sums.get(number, 0.0) - value

    def _gather(self) -> list[float]:
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, self._sums)
        sums = [0.0] * len(self._rows)
        for part in gathered:
            for number, value in part.items():
                sums[number] += value
        return sums


def _build_row(context: Sequence[int], choice: Sequence[int], *, length: int) -> _Row:
    """Join the tokens of a context and a choice, of which the first are left out where they do not fit."""
    tokens = [*context, *choice][-(length + 1) :]
    return _Row(tokens=tokens, num_targets=min(len(choice), len(tokens) - 1))


def read_tasks(names: Sequence[str], *, num_items: int | None) -> dict[str, list[Item]]:
    """Read the items of tasks, by the names of their scores."""
    return {name.rpartition("/")[2].removesuffix(".jsonl"): read_items(name)[:num_items] for name in names}
