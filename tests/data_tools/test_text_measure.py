"""Words are counted with and without spaces between them."""

import pytest

from data_tools.text_measure import TextMeasure, count_words, measure_repeated, split_units


@pytest.mark.parametrize(
    ("text", "characters_per_word", "expected"),
    [
        ("The quick, brown fox.", 0, 4),
        ("敏捷的狐狸跳过了懒狗", 2, 5),
        ("安装 Debian 12 系统", 2, 4),
        ("", 2, 0),
        ("", 0, 0),
    ],
)
def test_words(text, characters_per_word, expected):
    assert count_words(text, characters_per_word) == expected
    assert TextMeasure(text, characters_per_word=characters_per_word).num_words == expected


def test_units_without_spaces():
    assert split_units("用 SMTP25 吧。", 2) == ["用", "SMTP25", "吧", "。"]


def test_measures():
    measure = TextMeasure("One 2 three\n\n  four -- \nfive\n")
    assert measure.lines == ["One 2 three", "four --", "five"]
    assert measure.paragraphs == ["One 2 three", "four -- \nfive"]
    assert measure.num_characters == 19
    assert measure.alphabetic_share == 4 / 6


def test_repeated_parts():
    assert measure_repeated(["aa", "b", "aa", "aa", "c"]) == (2, 4)
