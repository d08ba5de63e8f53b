"""C4's rules for whole documents."""

import pytest

from data_tools.filters.quality.c4 import check_c4, count_sentences
from tests.data_tools.step_results import find_reason

GOOD = "It rained. We stayed. They left? Nobody knew! At night it was over."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD[:30], "c4_few_sentences"),
        (GOOD + " Lorem IPSUM dolor.", "c4_phrase"),
        (GOOD + " if (x) { y }", "c4_curly_bracket"),
        (GOOD + " " + "x" * 1001, "c4_long_word"),
        ("", "c4_few_sentences"),
    ],
)
def test_rules(text, reason):
    assert find_reason(check_c4, text) == reason


def test_code_may_be_kept():
    assert find_reason(check_c4, GOOD + " {}", may_contain_curly_bracket=True) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He said “no.” Then 3.14 and a.b.c end...", 2),
        ("一句话。两句话！三句话？”", 3),
        ("هل هذا صحيح؟ نعم.", 2),
        ("यह एक वाक्य है। दूसरा।", 2),
        ("no end", 0),
    ],
)
def test_sentences(text, number):
    assert count_sentences(text) == number
