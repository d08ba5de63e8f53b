"""Thresholds of a language: the general ones, then those that are built in, then the user's."""

import pytest

from data_tools.config.filtering import QualityConfig, QualityThresholds
from data_tools.config.rules import find_bad_thresholds
from data_tools.filters.quality.filter import LANGUAGE_THRESHOLDS, ThresholdTable


def test_order_of_precedence():
    config = QualityConfig(
        thresholds=QualityThresholds(min_words=7, short_line_characters=9),
        by_language={"zh": {"min_words": 3}, "xx": {"max_words": 5}},
    )
    table = ThresholdTable(config)
    assert (table("zh").min_words, table("zh").characters_per_word, table("zh").short_line_characters) == (3, 2, 12)
    assert (table("ko").min_words, table("xx").max_words, table("xx").min_words) == (7, 5, 7)
    assert table("never heard of") == table("") == config.thresholds


@pytest.mark.parametrize("language", LANGUAGE_THRESHOLDS)
def test_built_in_thresholds_are_thresholds(language):
    config = QualityConfig(by_language={language: LANGUAGE_THRESHOLDS[language]})
    assert list(find_bad_thresholds(config)) == []


def test_bad_entries_are_named():
    config = QualityConfig(by_language={"zh": {"min_word": 3, "max_words": "many"}})
    problems = {violation.path: str(violation) for violation in find_bad_thresholds(config)}
    assert set(problems) == {"quality.by_language.zh.min_word", "quality.by_language.zh.max_words"}
    assert "min_words" in problems["quality.by_language.zh.min_word"]
