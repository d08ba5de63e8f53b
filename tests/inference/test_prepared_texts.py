"""Predictions encode texts as the examples were prepared on which the model was fine-tuned: equal ids, without options.

The records are those of the real `trireme prepare-examples`, put where a fine-tuned model's checkpoint has them.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_tools.commands import run_command
from tests.inference.test_fill_mask import WORDS
from tests.inference.test_predict import save
from trainer.inference.batch_model import open_for_batches
from trainer.inference.options import ModelOptions
from trainer.inference.predict_file import build_predictor, find_task
from trainer.inference.prediction_input import Given, InputFields, read_label, read_records
from trainer.inference.predictors import TaskOfModel
from trainer.saved_run import SavedRun
from trireme.errors import ConfigError
from trireme.shards.examples import (
    LABELS_SUFFIX,
    NO_LABEL,
    RECORD_NAME,
    TOKEN_TYPES_SUFFIX,
    ExamplesRecord,
    TextSettings,
    decode_labels,
    read_examples,
    read_record,
    write_record,
)
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

SEQ_LENGTH = 16
LETTERS = [word for word in WORDS if word.isalpha()]


def words(number: int, *, count: int) -> str:
    """A text of `count` words of one token that no other number has."""
    return " ".join(LETTERS[(number // len(LETTERS) ** place + place) % len(LETTERS)] for place in range(count))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for kind in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
        save(kind, directory / kind, **({} if kind == "QuestionAnswering" else {"num_labels": 3}))
    return directory


class Prepared:
    """Prepared examples, and what a model that was fine-tuned on them predicts with."""

    def __init__(self, model: Path, path: Path, *options: object) -> None:
        prefix = path.with_suffix("")
        fixed = ("--input", path, "--tokenizer", model, "--seq-length", SEQ_LENGTH, "--output", prefix)
        done = run_command("data_tools.prepare_examples", *fixed, *options)
        assert done.returncode == 0, done.stderr
        record = read_examples(prefix)
        assert record is not None
        self.record: ExamplesRecord = record
        self.saved: SavedRun
        self.tokenizer: Tokenizer
        self.saved, self.tokenizer = open_for_batches(ModelOptions(path=model / "run", max_batch_size=2))
        (self.saved.checkpoint / RECORD_NAME).write_text(write_record(record))
        assert read_record(self.saved.checkpoint) == record
        self.task: TaskOfModel = find_task(self.saved)
        self._prefix = prefix

    def documents(self) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
        """Ids of each document: its token types, and its labels."""
        tokens = np.array(ShardReader(self._prefix).tokens).reshape(-1, SEQ_LENGTH)
        labels, starts = decode_labels(np.array(ShardReader(f"{self._prefix}{LABELS_SUFFIX}").tokens))
        labels, starts = labels.reshape(tokens.shape), starts.reshape(tokens.shape)
        types = np.zeros_like(tokens)
        if Path(f"{self._prefix}{TOKEN_TYPES_SUFFIX}.bin").exists():
            types = np.array(ShardReader(f"{self._prefix}{TOKEN_TYPES_SUFFIX}").tokens).reshape(tokens.shape)
        found = {}
        for row in range(len(tokens)):
            borders = [*np.flatnonzero(starts[row]).tolist(), SEQ_LENGTH]
            for begin, end in itertools.pairwise(borders):
                if (labels[row, begin:end] != NO_LABEL).any():
                    ids = tuple(tokens[row, begin:end].tolist())
                    found[ids] = (types[row, begin:end].tolist(), labels[row, begin:end].tolist())
        return found

    def read(self, path: Path) -> tuple[list[Any], InputFields]:
        records, fields = read_records(path, self.task, Given())
        return list(records), fields

    def encode(self, path: Path) -> list[list[tuple[tuple[int, ...], list[int]]]]:
        """Ids and token types of each record's rows, as predictions have them."""
        records, fields = self.read(path)
        predictor = build_predictor(self.saved, self.tokenizer, task=self.task, fields=fields)
        return [
            [
                (
                    tuple(row.tokens.tolist()),
                    [0] * len(row.tokens) if row.token_types is None else row.token_types.tolist(),
                )
                for row in predictor.encode(values).rows
            ]
            for values in records
        ]


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def check_equal(prepared: Prepared, path: Path) -> None:
    """Every row of a prediction is a document of the shard, and every document one of a row."""
    expected = {ids: types for ids, (types, _) in prepared.documents().items()}
    found = {ids: types for rows in prepared.encode(path) for ids, types in rows}
    assert len(found) > 5
    assert found == expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("is_pair", [True, False])
def test_texts_and_pairs_are_cut_on_the_same_side(models: Path, tmp_path: Path, side: str, is_pair: bool) -> None:
    """Named columns; a column with a usual name of a second text beside them does not take part."""
    records = [
        {
            "body": words(number, count=3 + number),
            "reply": words(number + 5, count=30 - number),
            "sentence": "cat",
            "verdict": ["a", "b", "c"][number % 3],
        }
        for number in range(24)
    ]
    path = write_lines(tmp_path / "examples.jsonl", records)
    columns = ("--text-column", "body", "--label-column", "verdict", *(("--pair-column", "reply") if is_pair else ()))
    prepared = Prepared(models / "SequenceClassification", path, "--task", "classify", "--truncate", side, *columns)
    check_equal(prepared, path)
    records, fields = prepared.read(path)
    numbers = [read_label(values, fields, prepared.task) for values in records]
    assert numbers == [number % 3 for number in range(24)]
    assert [labels[0] for _, labels in prepared.documents().values()].count(0) == 8
    # A model of single texts predicts single texts, whatever else a file has.
    further = [{**record, "hypothesis": "a dog"} for record in records]
    (first, *_), *_ = prepared.encode(write_lines(tmp_path / "further.jsonl", further))
    assert first[0] in prepared.documents()


def test_a_model_of_pairs_needs_the_second_text(models: Path, tmp_path: Path) -> None:
    records = [{"text": words(n, count=4), "reply": "a cat", "label": "abc"[n % 3]} for n in range(6)]
    path = write_lines(tmp_path / "examples.jsonl", records)
    prepared = Prepared(models / "SequenceClassification", path, "--task", "classify", "--pair-column", "reply")
    single = write_lines(tmp_path / "single.jsonl", [{"text": "a cat"}])
    with pytest.raises(ConfigError, match="has no field reply. Set --pair-column to one of text"):
        prepared.read(single)


def test_sets_of_classes_are_split_alike(models: Path, tmp_path: Path) -> None:
    cells = ["a, b; c", "c", "a, b", "", "d;c"]
    records = [{"text": words(number, count=4), "label": cells[number % 5]} for number in range(10)]
    path = write_lines(tmp_path / "examples.jsonl", records)
    options = ("--task", "classify", "--target", "multi", "--label-separator", ";", "--labels", "a, b", "c", "d")
    prepared = Prepared(models / "SequenceClassification", path, *options)
    check_equal(prepared, path)
    records, fields = prepared.read(path)
    documents = prepared.documents()
    for values, rows in zip(records, prepared.encode(path), strict=True):
        bits = sum(1 << number for number in read_label(values, fields, prepared.task))
        assert documents[rows[0][0]][1][0] == bits


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_are_cut_on_the_same_side(models: Path, tmp_path: Path, side: str) -> None:
    records = [
        {"parts": words(number, count=10 + number).split(), "kinds": ["O", "B-X", "I-X", *["O"] * (7 + number)]}
        for number in range(12)
    ]
    path = write_lines(tmp_path / "examples.jsonl", records)
    columns = ("--text-column", "parts", "--label-column", "kinds")
    prepared = Prepared(models / "TokenClassification", path, "--task", "tag", "--truncate", side, *columns)
    check_equal(prepared, path)


def test_columns_of_conll(models: Path, tmp_path: Path) -> None:
    text = "".join(f"{n} cat O B-X x\n{n} {LETTERS[n]} O O x\n\n" for n in range(8))
    path = tmp_path / "examples.conll"
    path.write_text(text)
    columns = ("--text-column", 2, "--label-column", 4)
    prepared = Prepared(models / "TokenClassification", path, "--task", "tag", *columns)
    check_equal(prepared, path)
    records, fields = prepared.read(path)
    assert read_label(records[0], fields, prepared.task) == ["B-X", "O"]


def test_windows_share_as_much(models: Path, tmp_path: Path) -> None:
    """6 tokens instead of a quarter of a row, which is 4."""
    texts = [words(number, count=30) for number in range(6)]
    entries = [
        {"context": text, "qas": [{"id": "q", "question": "the cat", "answers": [{"text": "a", "answer_start": at}]}]}
        for text in texts
        if (at := f" {text} ".find(" a ")) >= 0
    ]
    path = tmp_path / "examples.json"
    path.write_text(json.dumps({"data": [{"paragraphs": entries}]}))
    prepared = Prepared(models / "QuestionAnswering", path, "--task", "qa", "--stride", 6)
    check_equal(prepared, path)


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    values = {"task": "classify", "seq_length": 8, "pad_token_id": 0, "num_examples": 2, "labels": ["a", "b"]}
    (tmp_path / RECORD_NAME).write_text(json.dumps(values))
    record = read_record(tmp_path)
    assert record == ExamplesRecord(task="classify", seq_length=8, pad_token_id=0, num_examples=2, labels=("a", "b"))
    # Those of later versions may have more.
    (tmp_path / RECORD_NAME).write_text(json.dumps({**values, "texts": {"truncation": "left", "color": "red"}}))
    record = read_record(tmp_path)
    assert record is not None
    assert record.texts == TextSettings(truncation="left")
    (tmp_path / RECORD_NAME).write_text(json.dumps({**values, "texts": {}}))
    with pytest.raises(ConfigError, match="lacks how its texts were cut"):
        read_record(tmp_path)
