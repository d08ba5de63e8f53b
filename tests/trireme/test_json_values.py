"""JSON is read as Python reads it, but for what could not be written or encoded again."""

import json

import pytest

from trireme.json_values import parse_json, parse_json_at


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "\\ud83d\\ude00 \\u00e9"]}', ' "\\\\ud83d" ', "[[[]]]"])
def test_values_are_those_of_the_standard_library(text: str) -> None:
    assert parse_json(text) == json.loads(text)
    assert parse_json_at(f"x{text.strip()},", 1) == (json.loads(text), 1 + len(text.strip()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["\\uD83D"]', r"the escape \\ud83d is half a character"),
        ('{"\\ude00\\ud83d": 1}', r"the escape \\ude00 is half a character"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[1", "Expecting"),
    ],
)
def test_what_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)
