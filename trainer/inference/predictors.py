"""Turn records into rows of a model with a task's head, and its scores into predictions. n: tokens, k: scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trainer.inference.batch_model import InputRow
from trainer.scores.answers import choose_window, cut_answer, find_answer
from trainer.scores.classes import sigmoid, softmax
from trireme.examples.classification import TextEncoder
from trireme.examples.document import EncodedDocument, Truncation
from trireme.examples.questions import QuestionEncoder, Window, default_stride
from trireme.examples.tags import WordEncoder
from trireme.shards.examples import TargetKind, Task, TextSettings
from trireme.tokenizer.tokenizer import Tokenizer

OUTSIDE = "O"


@dataclass(frozen=True, kw_only=True)
class TaskOfModel:
    """Hold what the scores of a model mean."""

    task: Task
    """classify, tag or qa."""
    kind: TargetKind = "single"
    labels: tuple[str, ...] = ()
    """Names of the classes or tags, in the order of their numbers."""
    texts: TextSettings | None = None
    """How the texts became tokens on which the model was fine-tuned; None if that is not known."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Hold the rows of a record, and what its predictor needs to read their scores."""

    rows: tuple[InputRow, ...]
    context: Any = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Hold what a model says of a record."""

    fields: Mapping[str, Any]
    """For the output: prediction, probability and others."""
    scored: Any
    """What `trainer.scores.score.score` compares with the label."""


class Predictor(Protocol):
    """Encode the records of one task, and read the scores of its rows."""

    def encode(self, values: Mapping[str, Any]) -> Encoded:
        """Encode a record.

        Raises:
            ExampleRefusal: it has no text, or is too long.
        """
        ...

    def places(self, encoded: Encoded) -> list[np.ndarray]:
        """Return, for each row, the positions whose scores are needed."""
        ...

    def predict(self, encoded: Encoded, scores: Sequence[np.ndarray]) -> Prediction:
        """Return the prediction from the scores at these positions, [positions, k] for each row."""
        ...


class TextPredictor:
    """Predict a class, several classes or a number of a text, or of two.

    Args:
        text, second: fields of a record; None of second for single texts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        task: TaskOfModel,
        seq_length: int,
        truncation: Truncation,
        text: str,
        second: str | None,
    ) -> None:
        self._encoder = TextEncoder(tokenizer, seq_length=seq_length, truncation=truncation)
        self._task, self._text, self._second = task, text, second

    def encode(self, values: Mapping[str, Any]) -> Encoded:
        """See `Predictor`."""
        second = None if self._second is None else str(values[self._second])
        return Encoded(rows=(_row(self._encoder.encode(str(values[self._text]), second)),))

    def places(self, encoded: Encoded) -> list[np.ndarray]:
        """See `Predictor`: the scores of a document are at its first token."""
        return [np.zeros(1, np.int64)]

    def predict(self, encoded: Encoded, scores: Sequence[np.ndarray]) -> Prediction:
        """See `Predictor`."""
        found = scores[0][0]
        if self._task.kind == "value":
            return Prediction(fields={"prediction": float(found[0])}, scored=float(found[0]))
        if self._task.kind == "multi":
            shares = sigmoid(found)
            chosen: Any = [name for name, share in zip(self._task.labels, shares, strict=True) if share > 0.5]
            fields: dict[str, Any] = {"prediction": chosen}
        else:
            shares = softmax(found)
            best = int(shares.argmax())
            fields = {"prediction": self._task.labels[best], "probability": float(shares[best])}
        fields["probabilities"] = dict(zip(self._task.labels, shares.tolist(), strict=True))
        return Prediction(fields=fields, scored=found)


class WordPredictor:
    """Predict a tag of each word.

    Args:
        words: field of a record: a list of words, or a text whose words are separated by spaces.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, task: TaskOfModel, seq_length: int, truncation: Truncation, words: str
    ) -> None:
        self._encoder = WordEncoder(tokenizer, seq_length=seq_length, truncation=truncation)
        self._labels, self._words = task.labels, words

    def encode(self, values: Mapping[str, Any]) -> Encoded:
        """See `Predictor`."""
        found = values[self._words]
        encoded = self._encoder.encode_words(found.split() if isinstance(found, str) else [str(word) for word in found])
        return Encoded(rows=(_row(encoded.document),), context=encoded.first_tokens)

    def places(self, encoded: Encoded) -> list[np.ndarray]:
        """See `Predictor`: the first token of each word that was not cut off."""
        return [np.array([place for place in encoded.context if place is not None], np.int64)]

    def predict(self, encoded: Encoded, scores: Sequence[np.ndarray]) -> Prediction:
        """See `Predictor`. A word that was cut off has no tag, which counts as O."""
        shares = iter(softmax(scores[0]))
        tags: list[str | None] = []
        probabilities: list[float | None] = []
        for place in encoded.context:
            mine = None if place is None else next(shares)
            tags.append(None if mine is None else self._labels[int(mine.argmax())])
            probabilities.append(None if mine is None else float(mine.max()))
        fields = {"prediction": tags, "probabilities": probabilities}
        return Prediction(fields=fields, scored=[OUTSIDE if tag is None else tag for tag in tags])


class AnswerPredictor:
    """Predict the passage of a text that answers a question, or that there is none.

    Args:
        question, context: fields of a record.
        stride: tokens that two windows of a long text share; None is what preparation takes if it is not told.
    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 4.3: no answer is the first token's score.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, seq_length: int, question: str, context: str, stride: int | None = None
    ) -> None:
        stride = default_stride(seq_length) if stride is None else stride
        self._encoder = QuestionEncoder(tokenizer, seq_length=seq_length, stride=stride)
        self._question, self._context = question, context

    def encode(self, values: Mapping[str, Any]) -> Encoded:
        """See `Predictor`."""
        text = str(values[self._context])
        windows = self._encoder.encode(str(values[self._question]), text)
        return Encoded(rows=tuple(_row(window.document) for window in windows), context=(text, windows))

    def places(self, encoded: Encoded) -> list[np.ndarray]:
        """See `Predictor`: all tokens."""
        return [np.arange(len(row)) for row in encoded.rows]

    def predict(self, encoded: Encoded, scores: Sequence[np.ndarray]) -> Prediction:
        """See `Predictor`. Of several windows, the one with the highest score decides."""
        text, windows = encoded.context
        found = [find_answer(of_window, window.context) for window, of_window in zip(windows, scores, strict=True)]
        number, has_answer = choose_window(found)
        shares = softmax(scores[number].T)
        if not has_answer:
            fields = {"prediction": "", "start": None, "probability": float(shares[:, 0].prod())}
            return Prediction(fields=fields, scored="")
        window: Window = windows[number]
        first, last = found[number].first, found[number].last
        place = window.context.begin
        probability = float(shares[0, place + first] * shares[1, place + last])
        answer, begin = cut_answer(text, [window.offsets[first], window.offsets[last]])
        return Prediction(fields={"prediction": answer, "start": begin, "probability": probability}, scored=answer)


def _row(document: EncodedDocument) -> InputRow:
    return InputRow(tokens=document.tokens, token_types=document.token_types)
