"""The evaluation suite that comes with the project: its files, its reader, its scores."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.train.small_run import write_tokenizer
from trainer.suite.items import FOLDER, Item, check_task, read_items, shipped_tasks
from trainer.suite.scoring import encode_choice, score_items
from trainer.suite.words import number_in_chinese
from trainer.suite.write import build_files
from trireme.errors import ConfigError
from trireme.tokenizer.tokenizer import Tokenizer


def test_the_files_are_those_that_the_script_writes() -> None:
    files = build_files()
    assert {path.name for path in FOLDER.iterdir()} == set(files)
    for name, content in files.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == content, name


@pytest.mark.parametrize("task", shipped_tasks())
def test_every_task_has_different_items_and_choices_in_any_order(task: str) -> None:
    items = read_items(task)
    assert len(items) >= 40 and len({(item.context, item.choices) for item in items}) == len(items)
    assert all(len(set(item.choices)) == len(item.choices) for item in items)
    # One place for all right choices would be a bias that a model could use.
    assert max(Counter(item.answer for item in items).values()) < 0.7 * len(items)


def test_sums_in_both_languages_are_right() -> None:
    numbers = {number_in_chinese(number): number for number in range(100)}
    assert numbers["十"] == 10 and numbers["二十一"] == 21 and len(numbers) == 100
    for item in read_items("arithmetic_en"):
        for problem in (item.context + " " + item.choices[item.answer]).split(". "):
            first, sign, second, _, result = problem.split(" ")
            expected = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}[sign](int(first), int(second))
            assert int(result) == expected
    for item in read_items("arithmetic_zh"):
        for problem in (item.context + item.choices[item.answer]).split("。"):
            question, result = problem.split("等于")
            sign = next(sign for sign in "加减乘" if sign in question)
            first, second = (numbers[part] for part in question.split(sign))
            assert numbers[result] == {"加": first + second, "减": first - second, "乘": first * second}[sign]


def test_scores_follow_the_definitions_of_the_harness() -> None:
    items = [Item(context="a", choices=("b", "cdef"), answer=1), Item(context="a", choices=("b", "c"), answer=0)]
    # The long choice has the lower sum, and the higher mean per character.
    scores = score_items(items, [[-2.0, -4.0], [-1.0, -3.0]])
    assert (scores["acc"], scores["acc_norm"]) == (0.5, 1.0)
    assert scores["acc_stderr"] == pytest.approx(0.5)  # deviation of 0, 1 with n - 1: 0.7071, over the root of 2


def test_spaces_at_the_end_of_a_context_go_to_the_choice(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    item = Item(context="ab ", choices=("c", "d"), answer=0, delimiter="")
    assert encode_choice(item, 1, tokenizer=tokenizer) == (tokenizer.encode("ab"), tokenizer.encode(" d"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "line 1: is no JSON"),
        ("[1]", "must be an object"),
        (json.dumps({"context": " ", "choices": ["a", "b"], "answer": 0}), "context: must be a text"),
        (json.dumps({"context": "a", "choices": ["a"], "answer": 0}), "choices: must be at least two"),
        (json.dumps({"context": "a", "choices": ["a", "b"], "answer": 2}), "answer: must be an integer from 0 to 1"),
        (json.dumps({"context": "a", "choices": ["a", "b"], "answer": 0, "delimiter": 1}), "delimiter: must be"),
        ("", "contains no item"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=message):
        read_items(str(path))
    assert len(check_task(str(path), path="evaluation.tasks")) == 1


def test_an_unknown_task_is_named_with_those_that_there_are() -> None:
    (violation,) = check_task("cloze", path="evaluation.tasks")
    assert "agreement_en" in violation.message and violation.value == "cloze"
