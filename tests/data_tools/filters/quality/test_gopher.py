"""Each rule of Gopher drops a text that breaks it, and only then."""

import pytest

from data_tools.filters.quality.gopher import check_gopher_quality
from tests.data_tools.step_results import find_reason

GOOD = "The people of the village have walked to the river with their nets in the morning and come home at noon.\n" * 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD[:200], "gopher_few_words"),
        (GOOD * 1100, "gopher_many_words"),
        ("a b " * 100, "gopher_word_length"),
        ("incomprehensibilities " * 100, "gopher_word_length"),
        (GOOD + "# # # #### ######", "gopher_symbols"),
        (GOOD + "well... " * 20, "gopher_symbols"),
        ("".join(f"• {line}\n" for line in GOOD.splitlines()), "gopher_bullets"),
        ("".join(f"{line[:-1]}…\n" for line in GOOD.splitlines()), "gopher_ellipses"),
        (GOOD + "12345 " * 30, "gopher_letters"),
        (
            GOOD.replace("the", "les").replace("The", "Les").replace("and", "et").replace(" to ", " au "),
            "gopher_stop_words",
        ),
    ],
)
def test_rules(text, reason):
    words = ["the", "be", "to", "of", "and", "that", "with"]
    if reason == "gopher_stop_words":
        words = ["the", "to", "and"]
    assert find_reason(check_gopher_quality, text, stop_words=words) == reason


def test_a_language_without_stop_words_needs_none():
    assert find_reason(check_gopher_quality, GOOD, stop_words=[]) is None
    assert find_reason(check_gopher_quality, GOOD, stop_words=["xyz"], min_stop_words=0) is None


def test_stop_words_inside_of_words():
    limits = {"stop_words": ["ill", "orn"], "match_stop_words_inside": False}
    assert find_reason(check_gopher_quality, GOOD, **limits) == "gopher_stop_words"
    assert find_reason(check_gopher_quality, GOOD, **limits | {"match_stop_words_inside": True}) is None
