"""`trainer.predict`: its probabilities are those of transformers' models, with all fields and scores kept in order."""

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.huggingface.models import BERT, randomize, transformers
from tests.inference.test_fill_mask import write_tokenizer
from tests.train.small_run import run_command
from trainer.huggingface.importing import import_model, open_source
from trainer.inference.batch_model import load_batch_model, open_for_batches
from trainer.inference.options import ModelOptions
from trainer.inference.predict_file import build_predictor, find_task, predict_all
from trainer.inference.prediction_input import InputFields
from trainer.parallel.world import end_layout

LABELS = ["good", "bad", "so so"]
TEXTS = ["the cat sat", "paris is the capital of france .", "a dog in the house", "mat", "the the the dog on a mat ."]
ROUNDING = 1e-4
"""Scores are of size 1 to 5 and differ by 5e-6 of that at most."""


def save(kind: str, directory: Path, **changes: Any) -> Any:
    """Save a model with a head, and its tokenizer; return the model."""
    directory.mkdir()
    config = transformers.BertConfig(**BERT, **changes)
    model = randomize(getattr(transformers, f"BertFor{kind}")(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier.weight", "qa_outputs.weight")):
                parameter.mul_(16)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    import_model(open_source(directory), directory / "run", has_gate=False)
    return model


def tokenizer_of(directory: Path) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), mask_token="[MASK]", pad_token="[PAD]"
    )


def predict(directory: Path, file: Path, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    output = file.with_name("predictions.jsonl")
    done = run_command(
        "trainer.predict",
        str(directory / "run"),
        "--input",
        str(file),
        "--output",
        str(output),
        "--max-batch-size",
        "2",
        *arguments,
        cwd=file.parent,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in output.read_text().splitlines()], json.loads(done.stdout)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[float]]]:
    """A directory, and transformers' probabilities of the texts."""
    directory = tmp_path_factory.mktemp("classes") / "model"
    model = save("SequenceClassification", directory, id2label=dict(enumerate(LABELS)))
    tokenizer = tokenizer_of(directory)
    with torch.no_grad():
        found = [
            model(tokenizer(text, return_tensors="pt")["input_ids"]).logits.softmax(-1)[0].tolist() for text in TEXTS
        ]
    assert np.ptp([one[0] for one in found]) > 0.01, "texts differ"
    return directory, found


def test_classes(classifier: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    directory, expected = classifier
    best = [int(np.argmax(one)) for one in expected]
    right = [LABELS[number] for number in best]
    right[0] = LABELS[(best[0] + 1) % 3]
    file = tmp_path / "texts.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "label"])
        writer.writerows(
            [(str(number), text, label) for number, (text, label) in enumerate(zip(TEXTS, right, strict=True))]
        )
        writer.writerow(["last", "", right[1]])
    records, summary = predict(directory, file)
    assert [record["id"] for record in records] == [*map(str, range(len(TEXTS))), "last"]
    for record, text, shares, number in zip(records, TEXTS, expected, best, strict=False):
        assert record["text"] == text and record["prediction"] == LABELS[number]
        assert [record["probabilities"][label] for label in LABELS] == pytest.approx(shares, abs=ROUNDING)
        assert record["probability"] == pytest.approx(max(shares), abs=ROUNDING)
    assert records[-1]["prediction"] is None and records[-1]["error"] == "a text without tokens"
    assert summary["num_records"] == 6 and summary["num_refused"] == 1
    assert summary["scores"]["accuracy"] == pytest.approx(4 / 5)
    assert np.sum(summary["confusions"]) == 5 and summary["labels"] == LABELS


def test_sets_of_classes_in_a_table_with_dates(tmp_path: Path) -> None:
    changes = {"id2label": dict(enumerate(LABELS)), "problem_type": "multi_label_classification"}
    model = save("SequenceClassification", tmp_path / "model", **changes)
    tokenizer = tokenizer_of(tmp_path / "model")
    with torch.no_grad():
        shares = [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits.sigmoid()[0] for text in TEXTS]
    sets = [[label for label, share in zip(LABELS, row.tolist(), strict=True) if share > 0.5] for row in shares]
    day = datetime.date(2024, 2, 29)
    cells = [", ".join(names) if number % 2 else json.dumps(names) for number, names in enumerate(sets)]
    table = pa.table({"text": TEXTS, "labels": cells, "day": [day] * len(TEXTS), "raw": [b"\x00"] * len(TEXTS)})
    pq.write_table(table, tmp_path / "texts.parquet")
    records, summary = predict(tmp_path / "model", tmp_path / "texts.parquet")
    assert [record["prediction"] for record in records] == sets
    assert records[0]["day"] == "2024-02-29"
    assert summary["scores"]["accuracy"] == 1


def test_tags(tmp_path: Path) -> None:
    names = ["O", "B-LOC", "I-LOC", "B-ANIMAL"]
    model = save("TokenClassification", tmp_path / "model", id2label=dict(enumerate(names)))
    tokenizer = tokenizer_of(tmp_path / "model")
    words = ["paris", "cats", "is", "the", "capital"]  # cats is two tokens
    ids = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    firsts = [ids.word_ids().index(number) for number in range(len(words))]
    with torch.no_grad():
        shares = model(ids["input_ids"]).logits.softmax(-1)[0, firsts]
    expected = [names[number] for number in shares.argmax(-1)]
    file = tmp_path / "words.jsonl"
    file.write_text(json.dumps({"tokens": words, "tags": expected}) + "\n")
    (record,), summary = predict(tmp_path / "model", file)
    assert record["prediction"] == expected and record["tokens"] == words
    assert record["probabilities"] == pytest.approx(shares.max(-1).values.tolist(), abs=ROUNDING)
    assert summary["scores"]["accuracy"] == 1
    conll = tmp_path / "words.conll"
    conll.write_text("".join(f"{word} O\n" for word in words) + "\n")
    (tmp_path / "predictions.jsonl").unlink()
    (again,), summary = predict(tmp_path / "model", conll)
    assert again["prediction"] == expected
    assert summary["scores"]["accuracy"] == pytest.approx(expected.count("O") / 5)


def test_answers(tmp_path: Path) -> None:
    """The best passage of a long text, over its windows, is the one of transformers' scores by brute force."""
    save("QuestionAnswering", tmp_path / "model")
    model = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "model").eval()
    tokenizer = tokenizer_of(tmp_path / "model")
    question, text = "is paris the capital", " ".join([*TEXTS, "cats"] * 5)
    windows = tokenizer(
        question,
        text,
        truncation="only_second",
        max_length=96,
        stride=24,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    candidates = []
    for number in range(len(windows["input_ids"])):
        inputs = {key: torch.tensor([windows[key][number]]) for key in ("input_ids", "token_type_ids")}
        with torch.no_grad():
            scores = model(**inputs)
        start, end = scores.start_logits[0], scores.end_logits[0]
        kinds, places = windows.sequence_ids(number), windows["offset_mapping"][number]
        inside = [place for place, kind in enumerate(kinds) if kind == 1]
        candidates += [
            (float(start[a] + end[b]), places[a][0], places[b][1]) for a in inside for b in inside if a <= b < a + 30
        ]
        candidates.append((-float("inf") if number else float(start[0] + end[0]), -1, -1))
    assert len(windows["input_ids"]) > 1
    score, begin, end = max(one for one in candidates if one[1] >= 0)
    file = tmp_path / "questions.jsonl"
    answers = {"text": [text[begin:end]], "answer_start": [begin]}
    file.write_text(json.dumps({"question": question, "context": text, "answers": answers}) + "\n")
    (record,), summary = predict(tmp_path / "model", file)
    assert (record["prediction"], record["start"]) == (text[begin:end], begin)
    assert max(one[0] for one in candidates if one[1] < 0) <= score, "there is an answer"
    assert summary["scores"] == {"exact_match": 1.0, "f1": 1.0}
    squad = tmp_path / "squad.json"
    entry = {"id": "q", "question": question, "answers": [{"text": text[:3], "answer_start": 0}]}
    squad.write_text(json.dumps({"data": [{"paragraphs": [{"context": text, "qas": [entry]}]}]}))
    (tmp_path / "predictions.jsonl").unlink()
    (again,), summary = predict(tmp_path / "model", squad)
    assert again["prediction"] == record["prediction"] and again["id"] == "q"
    assert summary["scores"]["exact_match"] == 0


def predict_under(path: Path, layouts: list[tuple[int, int]]) -> list[Any]:
    results = []
    for tensor, pipeline in layouts:
        options = ModelOptions(
            path=path, tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, max_batch_size=2
        )
        saved, tokenizer = open_for_batches(options)
        task = find_task(saved, labels=LABELS)
        loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose="predict")
        records, predictor = [], None
        if loaded.model.is_driver:
            records = [{"text": text} for text in TEXTS]
            fields = InputFields(text="text")
            predictor = build_predictor(saved, tokenizer, task=task, fields=fields, truncation="right")
        found = predict_all(loaded.model, records, predictor).found
        results.append([list(one.fields["probabilities"].values()) for one in found if one is not None])
        end_layout()
    return results


def test_layouts(classifier: tuple[Path, list[list[float]]]) -> None:
    directory, expected = classifier
    first, others = run_distributed(predict_under, 2, directory / "run", [(2, 1), (1, 1)])
    for found in first:
        np.testing.assert_allclose(found, expected, atol=ROUNDING)
    assert others == [[], []]
    (found,), *_ = run_distributed(predict_under, 3, directory / "run", [(1, 3)])
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_refusals(classifier: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    directory, _ = classifier
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a cat"}\n{"text": 3}\n{"label": "good"}\n[1]\n')
    arguments = ("trainer.predict", str(directory / "run"), "--input", str(file), "--output", str(tmp_path / "out"))
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    for line in (
        "texts.jsonl:2: text must be a text",
        "texts.jsonl:3: text is missing",
        "texts.jsonl:4: must be a JSON object",
    ):
        assert line in done.stderr
    file.write_text('{"body": "a cat", "label": "unheard of"}\n')
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Set --text-column to one of body, label." in done.stderr
    done = run_command(*arguments, "--text-column", "body", cwd=tmp_path)
    assert done.returncode == 0 and "scores" not in json.loads(done.stdout)
    assert "Not scored: label holds unheard of" in done.stderr
