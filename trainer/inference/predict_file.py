"""Predict all records of a file with a model that has a task's head, and score the predictions."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.inference.batch_model import BatchModel, InputRow, broadcast_from_driver
from trainer.inference.prediction_input import InputFields, UnknownLabel, read_label
from trainer.inference.predictors import (
    AnswerPredictor,
    Encoded,
    Prediction,
    Predictor,
    TaskOfModel,
    TextPredictor,
    WordPredictor,
)
from trainer.saved_run import SavedRun
from trainer.scores.classes import count_confusions
from trainer.scores.score import score
from trireme.errors import ConfigError, Violation
from trireme.examples.document import ExampleRefusal, Truncation
from trireme.shards.examples import TargetKind, Task, read_record
from trireme.tokenizer.tokenizer import Tokenizer

_TASKS: Mapping[str, Task] = {"classification": "classify", "token_classification": "tag", "question_answering": "qa"}
_KINDS: Mapping[str, TargetKind] = {"regression": "value", "multi_label_classification": "multi"}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Hold what was predicted, by record."""

    found: list[Prediction | None]
    """None for a record that cannot be encoded."""
    errors: list[str]
    """Why; empty for the others."""


def find_task(saved: SavedRun, *, labels: Sequence[str] = (), problem_type: str | None = None) -> TaskOfModel:
    """Return what the scores of a model mean: as its examples say, or the config.json that it was imported with.

    Args:
        labels, problem_type: of that config.json; empty and None where there is none.
    Raises:
        ConfigError: the model has no task's head.
    """
    model = saved.state.model_config()
    task = _TASKS.get(model.head)
    if task is None:
        message, fix = f"cannot predict: its head is {model.head}", "Give a model that was fine-tuned for a task."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    record = read_record(saved.checkpoint)
    numbered = tuple(f"LABEL_{number}" for number in range(model.num_scores or 0))
    if record is not None and record.task == task:
        return TaskOfModel(task=task, kind=record.target_kind, labels=record.labels or numbered, texts=record.texts)
    kind: TargetKind = "value" if task == "classify" and model.num_scores == 1 else "single"
    if task == "classify":
        kind = _KINDS.get(problem_type or "", kind)
    return TaskOfModel(task=task, kind=kind, labels=tuple(labels) if len(labels) == model.num_scores else numbered)


def build_predictor(
    saved: SavedRun,
    tokenizer: Tokenizer,
    *,
    task: TaskOfModel,
    fields: InputFields,
    truncation: Truncation | None = None,
) -> Predictor:
    """Build the predictor of a model's task; texts are as long as the rows that it was fine-tuned on.

    Args:
        truncation: None cuts long texts as those were that the model was fine-tuned on; where such were not used, and
            where it is not known, their end.
    """
    record, num_positions = read_record(saved.checkpoint), saved.state.model_config().num_positions
    seq_length = num_positions if record is None else min(record.seq_length, num_positions)
    if truncation is None:
        truncation = "left" if task.texts is not None and task.texts.truncation == "left" else "right"
    if task.task == "tag":
        return WordPredictor(tokenizer, task=task, seq_length=seq_length, truncation=truncation, words=fields.text)
    if task.task == "qa":
        assert fields.second is not None, "questions have a text"
        stride = None if task.texts is None else task.texts.stride
        return AnswerPredictor(
            tokenizer, seq_length=seq_length, question=fields.text, context=fields.second, stride=stride
        )
    return TextPredictor(
        tokenizer, task=task, seq_length=seq_length, truncation=truncation, text=fields.text, second=fields.second
    )


def predict_all(
    model: BatchModel,
    records: Sequence[Mapping[str, Any]],
    predictor: Predictor | None,
    *,
    show: Callable[[int], object] = lambda done: None,
) -> Predictions:
    """Predict records; all ranks call this, and rank 0 has the records and gets the predictions.

    Args:
        predictor: of rank 0; None on the others.
        show: takes the number of finished records.
    """
    encoded: list[Encoded | None] = []
    errors: list[str] = []
    for values in records:
        try:
            assert predictor is not None, "rank 0 has a predictor"
            encoded.append(predictor.encode(values))
            errors.append("")
        except ExampleRefusal as error:
            encoded.append(None)
            errors.append(str(error))
    rows: list[InputRow] = []
    places: list[np.ndarray] = []
    owners: list[int] = []
    for number, one in enumerate(encoded):
        if one is not None and predictor is not None:
            rows += one.rows
            places += predictor.places(one)
            owners += [number] * len(one.rows)
    rows, places = broadcast_from_driver((rows, places))
    waiting = [0 if one is None else len(one.rows) for one in encoded]

    def take(output: torch.Tensor, numbers: Sequence[int]) -> list[np.ndarray]:
        return [
            output[index, torch.from_numpy(places[number]).to(output.device)].float().cpu().numpy()
            for index, number in enumerate(numbers)
        ]

    scores: dict[int, np.ndarray] = {}
    for found in model.compute(rows, take):
        scores |= found
        for row in found:
            waiting[owners[row]] -= 1
        show(waiting.count(0))
    by_record: list[list[np.ndarray]] = [[] for _ in records]
    for row, owner in enumerate(owners):
        by_record[owner].append(scores[row])
    results = [
        None if one is None or predictor is None else predictor.predict(one, mine)
        for one, mine in zip(encoded, by_record, strict=True)
    ]
    return Predictions(found=results, errors=errors)


def score_all(
    records: Sequence[Mapping[str, Any]], predictions: Predictions, *, task: TaskOfModel, fields: InputFields
) -> dict[str, Any]:
    """Return the scores of the records that could be predicted, if they have labels, and of classes the confusions."""
    if fields.label is None:
        return {}
    pairs = [(found, values) for found, values in zip(predictions.found, records, strict=True) if found is not None]
    try:
        labels = [read_label(values, fields, task) for _, values in pairs]
    except UnknownLabel as error:
        _LOGGER.warning("Not scored: %s holds %s, which is no label of the model.", fields.label, error)
        return {}
    guesses = [found.scored for found, _ in pairs]
    results: dict[str, Any] = {"scores": score(task.task, task.kind, guesses, labels)}
    if task.task == "classify" and task.kind == "single" and pairs:
        chosen = np.array([guess.argmax() for guess in guesses])
        counts = count_confusions(chosen, np.array(labels), num_classes=len(task.labels))
        results |= {"labels": list(task.labels), "confusions": counts.tolist()}
    return results
