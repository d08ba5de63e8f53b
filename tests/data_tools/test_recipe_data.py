"""The files of the fine-tuning recipes, from the package index."""

import csv
import json
from pathlib import Path

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from data_tools import recipe_data
from data_tools.examples.example import BadLine, Question, ReadExample
from data_tools.examples.read import ReadOptions, read_file
from trireme.errors import ConfigError


@pytest.mark.long
@pytest.mark.timeout(300)
def test_files_of_the_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert recipe_data.run(tmp_path / "data") == 0
    except ConfigError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip(str(error))
        raise
    assert "BSD license" in capsys.readouterr().out
    chats = [json.loads(line)["messages"] for line in (tmp_path / "data" / "chats.jsonl").read_text().splitlines()]
    assert len(chats) == 2026  # counted in the package
    assert chats[0][0] == {"role": "user", "content": "What is AI?"}
    assert {message["role"] for messages in chats for message in messages[1::2]} == {"assistant"}
    parts = []
    for name, size in (("movies_train.csv", 3000), ("movies_validation.csv", 1000)):
        with (tmp_path / "data" / name).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == size
        assert all((row["label"] == "positive") == (float(row["score"]) > 0) for row in rows)
        # Half of all sentences are positive: 49 % in the package.
        assert 0.45 < sum(row["label"] == "positive" for row in rows) / size < 0.55
        parts.append({row["text"] for row in rows})
    assert len(parts[0] & parts[1]) <= 1, "sentences of both parts"
    stories = []
    for name, size in zip(recipe_data.QUESTION_NAMES, (4432, 1224), strict=True):
        examples = list(read_file(tmp_path / "data" / name, ReadOptions(task="qa")))
        assert not [example for example in examples if isinstance(example, BadLine)]
        questions = [item.example for item in examples if isinstance(item, ReadExample)]
        assert len(questions) == size
        with_answer = sum(isinstance(q, Question) and bool(q.answers) for q in questions)
        assert with_answer == pytest.approx(size / 2, abs=20)
        stories.append({q.context for q in questions if isinstance(q, Question)})
    assert not stories[0] & stories[1]
    check_preferences(tmp_path / "data" / recipe_data.PREFERENCES_NAME, chats)
    check_places(*(tmp_path / "data" / name for name in recipe_data.PLACES_NAMES))
    assert recipe_data.run(tmp_path / "data") == 0
    assert "is complete" in capsys.readouterr().out


def check_preferences(path: Path, chats: list[list[dict[str, str]]]) -> None:
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    answers = {(turns[0]["content"], turns[1]["content"]) for turns in chats if len(turns) == 2}
    assert len(pairs) > 600 and len({pair["prompt"][0]["content"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        question, chosen, rejected = (pair[name][0]["content"] for name in ("prompt", "chosen", "rejected"))
        assert (question, chosen) in answers and chosen != rejected


def check_places(*paths: Path) -> None:
    """Words and tags fit together, and no name is in both files."""
    names: list[set[str]] = []
    for path, size in zip(paths, recipe_data.NUM_SENTENCES, strict=True):
        items = list(read_file(path, ReadOptions(task="tag")))
        assert len(items) == size and all(isinstance(item, ReadExample) for item in items)
        names.append(set())
        for line in path.read_text().splitlines():
            record = json.loads(line)
            entities = get_entities(record["tags"])
            assert {kind for kind, *_ in entities} <= {"CITY", "COUNTRY"}
            names[-1] |= {" ".join(record["tokens"][first : last + 1]) for _, first, last in entities}
    assert len(names[0]) > 300 and len(names[1]) > 100
    assert not names[0] & names[1]


def test_another_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wheel(*_: object, **__: object) -> object:
        (tmp_path / "chatterbot_corpus-1.3.3-py3-none-any.whl").write_bytes(b"something else")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(recipe_data.subprocess, "run", write_wheel)
    with pytest.raises(ConfigError, match="must have sha256"):
        recipe_data.download(recipe_data.DIALOGS, tmp_path)
