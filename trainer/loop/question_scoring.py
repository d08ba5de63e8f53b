"""Score the questions of a validation whole: the best passage of all windows, whichever ranks had them."""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

from trainer.data.labelled_rows import LabelledRowReader, RowDataset
from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.data.sampler import SampleLocations
from trainer.data.validation import ValidationLoader
from trainer.scores.answers import WindowAnswer, choose_window, cut_answer, find_answer
from trainer.scores.spans import score_spans
from trireme.shards.questions import QuestionEntry, QuestionWindow, read_questions
from trireme.tokenizer.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)


class ValidationQuestions:
    """Hold the questions of the rows of a validation, and collect and score their answers.

    Args:
        questions: of each data set, with the first row of the shard that they are in.
        locations: data set and row of each sample of a validation.
        tokenizer: that the rows were prepared with.
    """

    def __init__(
        self,
        questions: Sequence[Sequence[tuple[int, QuestionEntry]]],
        *,
        locations: SampleLocations,
        tokenizer: Tokenizer,
    ) -> None:
        self._tokenizer = tokenizer
        self._questions = [entry for of_dataset in questions for _, entry in of_dataset]
        self._offsets: dict[str, np.ndarray] = {}
        """Of each text that was needed so far: [n, 2] characters [begin, end) of its tokens."""
        places = zip(locations.dataset.tolist(), locations.window.tolist(), strict=True)
        samples = {place: sample for sample, place in enumerate(places)}
        self._windows: dict[tuple[int, int], tuple[int, int]] = {}
        """(sample, first token of a document) -> question, window of it."""
        question = 0
        for dataset, of_dataset in enumerate(questions):
            for first_row, entry in of_dataset:
                for number, window in enumerate(entry.windows):
                    sample = samples.get((dataset, first_row + window.row))
                    if sample is not None:
                        self._windows[sample, window.token] = question, number
                question += 1

    def collect(self, output: torch.Tensor, batch: MicroBatch) -> list[Any]:
        """Return the best passage of each window of a micro batch, as `trainer.loop.scoring.Collect` says.

        Args:
            output: [b, s, 2].
        """
        assert batch.document_starts is not None
        is_real = torch.tensor([sample != PADDING for sample in batch.sample_ids], device=batch.loss_mask.device)
        rows, columns = torch.nonzero((batch.loss_mask > 0) & is_real[:, None], as_tuple=True)
        scores, starts = output.float().cpu().numpy(), batch.document_starts.cpu().numpy()
        found = []
        for row, first in zip(rows.tolist(), columns.tolist(), strict=True):
            question, number = self._windows[batch.sample_ids[row], first]
            end = first + int((starts[row] == first).sum())
            context = self._window(question, number).context
            found.append(((question, number, 0), find_answer(scores[row, first:end], context), (question, number)))
        return found

    def judge(self, answers: Sequence[WindowAnswer], places: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Return the scores of `score_spans`, of the questions of which at least one window was seen.

        Args:
            answers: of windows, in the order of their places.
            places: question and window of each.
        """
        predicted, right = [], []
        for question, group in groupby(zip(answers, places, strict=True), key=lambda one: one[1][0]):
            found = list(group)
            best, has_answer = choose_window([answer for answer, _ in found])
            answer, (_, number) = found[best]
            predicted.append(self._text(question, number, answer) if has_answer else "")
            right.append(self._questions[question].answers)
        return score_spans(predicted, right)

    def _window(self, question: int, number: int) -> QuestionWindow:
        return self._questions[question].windows[number]

    def _text(self, question: int, number: int, answer: WindowAnswer) -> str:
        text, begin = self._questions[question].context, self._window(question, number).context.first
        offsets = self._offsets.get(text)
        if offsets is None:
            offsets = self._offsets[text] = np.array(self._tokenizer.encode_with_offsets(text)[1], np.int32)
        chosen = offsets[[begin + answer.first, begin + answer.last]].tolist()
        return cut_answer(text, chosen)[0]


def open_questions(validation: ValidationLoader, *, tokenizer: Tokenizer | None) -> ValidationQuestions | None:
    """Open the questions beside the rows of a validation; None, with a warning, if they are not all there.

    Raises:
        ConfigError: a file is damaged.
    """
    assert isinstance(validation.reader, LabelledRowReader), "questions are examples"
    questions = None if tokenizer is None else _find_questions(validation.reader.datasets)
    if questions is None or tokenizer is None:
        why = "the run has no tokenizer" if tokenizer is None else "the rows were prepared without their questions"
        _LOGGER.warning(
            "Answers of validations are scored by window, since %s. `trireme predict` scores whole questions.", why
        )
        return None
    return ValidationQuestions(questions, locations=validation.locations, tokenizer=tokenizer)


def _find_questions(datasets: Sequence[RowDataset]) -> list[list[tuple[int, QuestionEntry]]] | None:
    """Return the questions of each data set, with the first row of their shard; None if a shard does not keep them.

    Raises:
        ConfigError: a file is damaged.
    """
    found: list[list[tuple[int, QuestionEntry]]] = []
    for dataset in datasets:
        found.append([])
        first_row = 0
        for shard in dataset.tokens.shards:
            questions = read_questions(shard.prefix)
            if questions is None:
                return None
            found[-1] += [(first_row, entry) for entry in questions]
            first_row += shard.num_tokens // dataset.seq_length
    return found
