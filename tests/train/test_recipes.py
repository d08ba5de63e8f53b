"""The recipes of fine-tuning on real files, by the commands of their pages. Needs the package index."""

import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from launch import example_model
from launch.example_model import MODELS
from tests.train.small_run import run_command
from trireme.errors import ConfigError

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def command(folder: Path, module: str, *arguments: str) -> str:
    done = run_command(module, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ as `make encoder-model` and `make recipe-data` leave it."""
    folder = tmp_path_factory.mktemp("recipes")
    try:
        source = example_model.fetch(MODELS["encoder"], folder / "download")
    except ConfigError as error:
        pytest.skip(str(error))
    command(folder, "trainer.import_hf", str(source), "outputs/minilm")
    command(folder, "data_tools.recipe_data")
    return folder


def train_and_predict(folder: Path, task: str, *, source: str, rows: str, further: tuple[str, ...]) -> Any:
    """Prepare, train and predict the held-out file; return the records with their predictions, and the scores."""
    data, suffix = "outputs/recipe_data", "json" if task == "qa" else "jsonl"
    held_out = f"{data}/{source}_validation.{suffix}"
    command(
        folder,
        *("data_tools.prepare_examples", "--task", task, "--checkpoint", "outputs/minilm", "--seq-length", "128"),
        *("--input", f"{data}/{source}_train.{suffix}", "--validation", held_out),
        *("--output", f"outputs/minilm_rows/{rows}"),
    )
    command(folder, "launch.finetune", f"experiment={task}_minilm", "logging.wandb.mode=disabled", *further)
    output = f"{task}.jsonl"
    printed = command(folder, "trainer.predict", f"outputs/{task}_minilm", "--input", held_out, "--output", output)
    records = [json.loads(line) for line in (folder / output).read_text().splitlines()]
    return records, json.loads(printed.splitlines()[-1])["scores"]


def test_tags_are_scored_as_by_seqeval(folder: Path) -> None:
    records, scores = train_and_predict(
        folder, "tag", source="places", rows="places", further=("finetune.num_epochs=1",)
    )
    labels, predictions = [record["tags"] for record in records], [record["prediction"] for record in records]
    assert len(records) == 500
    assert scores["entity_f1"] == pytest.approx(f1_score(labels, predictions), abs=1e-12)
    assert scores["entity_precision"] == pytest.approx(precision_score(labels, predictions), abs=1e-12)
    assert scores["entity_recall"] == pytest.approx(recall_score(labels, predictions), abs=1e-12)
    assert scores["entity_f1"] > 0.7  # 0.92 after three epochs


def normalize(text: str) -> list[str]:
    """SQuAD's rule: lower case, no punctuation, no articles."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def overlap(answer: str, prediction: str) -> float:
    """SQuAD's F1: by words in common."""
    first, second = normalize(answer), normalize(prediction)
    if not first or not second:
        return float(first == second)
    common = sum((Counter(first) & Counter(second)).values())
    return 2 * common / (len(first) + len(second))


def test_answers_are_scored_by_the_rule_of_squad(folder: Path) -> None:
    steps = ("finetune.num_epochs=0.2", "data.validation=[]", "finetune.metric=loss")
    records, scores = train_and_predict(folder, "qa", source="questions", rows="questions", further=steps)
    content = json.loads((folder / "outputs/recipe_data/questions_validation.json").read_text())
    questions = [q for article in content["data"] for text in article["paragraphs"] for q in text["qas"]]
    answers = {q["id"]: [answer["text"] for answer in q["answers"]] or [""] for q in questions}
    assert len(records) == len(answers) == 1224
    exact = [max(normalize(one) == normalize(r["prediction"]) for one in answers[r["id"]]) for r in records]
    f1 = [max(overlap(one, r["prediction"]) for one in answers[r["id"]]) for r in records]
    assert scores["exact_match"] == pytest.approx(sum(exact) / len(exact), abs=1e-12)
    assert scores["f1"] == pytest.approx(sum(f1) / len(f1), abs=1e-12)
    assert scores["no_answer_f1"] > 0.9  # 1.0 after one epoch
