"""Score the predictions of a validation: collect them on every rank, gather them, and compare them with the labels.

b: sequences, s: tokens of a row.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import distributed

from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.engine.objective import PreferenceObjective
from trainer.loop.question_scoring import ValidationQuestions
from trainer.scores.answers import find_answer
from trainer.scores.score import score
from trireme.shards.examples import ExamplesRecord, decode_values
from trireme.shards.questions import ContextPlace

Scores = dict[str, float]
Prediction = tuple[tuple[int, int, int], Any, Any]
"""Place (sample, row's first token, number), what was predicted, and its label."""


class Collect(Protocol):
    """Take predictions and labels from the output of a micro batch."""

    def __call__(self, output: torch.Tensor, batch: MicroBatch) -> list[Prediction]:
        """Return what the targets of one micro batch were predicted as."""
        ...


class Scorer:
    """Collect predictions while a validation runs, and score them at its end; all ranks use it.

    Args:
        collect: takes predictions from an output.
        judge: computes scores from predictions and labels in the order of their places.
        is_collecting: whether this rank's outputs count: False where another rank has the same ones.
    """

    def __init__(
        self,
        collect: Collect,
        judge: Callable[[Sequence[Any], Sequence[Any]], Scores],
        *,
        is_collecting: bool,
    ) -> None:
        self._collect, self._judge, self._is_collecting = collect, judge, is_collecting
        self._found: list[Prediction] = []

    def reset(self) -> None:
        """Forget what was collected."""
        self._found = []

    def observe(self, output: torch.Tensor, batch: MicroBatch) -> None:
        """Collect the predictions of one micro batch from the model's output."""
        if self._is_collecting:
            self._found += self._collect(output, batch)

    def score(self) -> Scores:
        """Gather the predictions of all ranks and return their scores, the same on every rank; all ranks call this."""
        gathered: list[list[Prediction]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(gathered, self._found)
        self._found = []
        found = sorted((one for part in gathered for one in part), key=lambda one: one[0])
        if not found:
            return {}
        return self._judge([one[1] for one in found], [one[2] for one in found])


def build_scorer(
    record: ExamplesRecord,
    *,
    decode: Callable[[list[int]], str] | None,
    questions: ValidationQuestions | None,
    preference: PreferenceObjective | None,
    is_collecting: bool,
) -> Scorer | None:
    """Build the scorer of a task; None for a task whose loss says it all.

    Args:
        questions: of qa, to score whole questions; None scores each window as a question.
        decode: turns tokens into text, for answers of windows; None compares tokens.
        preference: of dpo.
        is_collecting: see `Scorer`.
    """
    collectors = {
        "classify": partial(_collect_scores, record=record),
        "tag": partial(_collect_tags, names=record.labels),
        "qa": _span_collector(decode),
    }
    if questions is not None:
        return Scorer(questions.collect, questions.judge, is_collecting=is_collecting)
    if record.task in collectors:
        judge = partial(score, record.task, record.target_kind)
        return Scorer(collectors[record.task], judge, is_collecting=is_collecting)
    if record.task == "dpo":
        assert preference is not None
        return Scorer(_margin_collector(preference), _judge_margins, is_collecting=is_collecting)
    return None


def _targets(batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of the labelled tokens of real samples."""
    is_real = torch.tensor([sample != PADDING for sample in batch.sample_ids], device=batch.loss_mask.device)
    rows, columns = torch.nonzero((batch.loss_mask > 0) & is_real[:, None], as_tuple=True)
    return rows, columns


def _collect_scores(output: torch.Tensor, batch: MicroBatch, *, record: ExamplesRecord) -> list[Prediction]:
    rows, columns = _targets(batch)
    scores, labels = output[rows, columns].float().cpu().numpy(), batch.labels[rows, columns].cpu().numpy()
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return [
        ((batch.sample_ids[row], column, 0), scores[number], _class_label(int(labels[number]), record=record))
        for number, (row, column) in enumerate(places)
    ]


def _class_label(label: int, *, record: ExamplesRecord) -> Any:
    """Return a label as `score` reads it: a class, the numbers of a set of classes, or a number."""
    if record.target_kind == "multi":
        return [number for number in range(len(record.labels)) if label >> number & 1]
    if record.target_kind == "value":
        assert record.value_range is not None
        return float(decode_values(np.array(label), value_range=record.value_range))
    return label


def _collect_tags(output: torch.Tensor, batch: MicroBatch, *, names: Sequence[str]) -> list[Prediction]:
    """Collect the tags of each document, by name."""
    assert batch.document_starts is not None
    rows, columns = _targets(batch)
    predicted = output[rows, columns].argmax(dim=-1).tolist()
    labels, starts = batch.labels[rows, columns].tolist(), batch.document_starts[rows, columns].tolist()
    documents: dict[tuple[int, int, int], tuple[list[str], list[str]]] = {}
    for row, start, prediction, label in zip(rows.tolist(), starts, predicted, labels, strict=True):
        pair = documents.setdefault((batch.sample_ids[row], start, 0), ([], []))
        pair[0].append(names[prediction])
        pair[1].append(names[label])
    return [(place, predictions, targets) for place, (predictions, targets) in documents.items()]


def _span_collector(decode: Callable[[list[int]], str] | None) -> Collect:
    def text(tokens: list[int], start: int, end: int) -> str:
        if end == 0:  # the first token of the document: there is no answer
            return ""
        span = tokens[start : end + 1]
        return " ".join(map(str, span)) if decode is None else decode(span)

    def collect(output: torch.Tensor, batch: MicroBatch) -> list[Prediction]:
        assert batch.document_starts is not None
        found: list[Prediction] = []
        rows, columns = _targets(batch)
        scores, starts = output.float().cpu().numpy(), batch.document_starts.cpu().numpy()
        for row, first in zip(rows.tolist(), columns.tolist(), strict=True):
            end = first + int((starts[row] == first).sum())
            tokens = batch.tokens[row, first:end].tolist()
            label = batch.labels[row, first : first + 2].tolist()
            predicted = find_answer(scores[row, first:end], ContextPlace(begin=0, first=0, num_tokens=len(tokens)))
            place = (batch.sample_ids[row], first, 0)
            found.append((place, text(tokens, predicted.first, predicted.last), [text(tokens, *label)]))
        return found

    return collect


def _margin_collector(preference: PreferenceObjective) -> Collect:
    def collect(output: torch.Tensor, batch: MicroBatch) -> list[Prediction]:
        margins = preference.margins(output, batch).cpu().tolist()
        first = batch.sample_ids[0]
        return [((first, 0, number), margin, 0.0) for number, margin in enumerate(margins)]

    return collect


def _judge_margins(predictions: Sequence[Any], labels: Sequence[Any]) -> Scores:
    """Return the share of pairs whose chosen answer gained more than the rejected one, and the mean gain."""
    margins = np.array(predictions)
    return {"reward_accuracy": float((margins > 0).mean()), "reward_margin": float(margins.mean())}
