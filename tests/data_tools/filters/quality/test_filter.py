"""Prose of each language passes all rules with the language's thresholds, and fails with those of another."""

import pytest

from data_tools.config.filtering import QualityConfig
from data_tools.filters.quality.filter import RULES, QualityFilter, ThresholdTable
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.step_results import apply_step


def judge(text: str, *, language: str, **config: object) -> list[str]:
    settings = QualityConfig(**{"rules": list(RULES), **config})
    _, ledger = apply_step(QualityFilter(settings, thresholds_of=ThresholdTable(settings)), text, language=language)
    return list(ledger.dropped)


@pytest.mark.parametrize("language", OWN_PROSE)
def test_prose_is_kept(language):
    assert judge(OWN_PROSE[language], language=language) == []


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_stock_thresholds_drop_scripts_without_spaces(language):
    assert judge(OWN_PROSE[language], language="de") == ["gopher_few_words"]


def test_rules_are_applied_in_order():
    text = "{ " * 10
    assert judge(text, language="en", rules=["c4", "gopher_quality"]) == ["c4_curly_bracket"]
    assert judge(text, language="en", rules=["gopher_quality", "c4"]) == ["gopher_few_words"]
    assert judge(text, language="en", rules=[]) == []


def test_languages_have_thresholds_of_their_own():
    limits = {"zh": {"min_words": 10_000}}
    assert judge(OWN_PROSE["zh"], language="zh", by_language=limits) == ["gopher_few_words"]
    assert judge(OWN_PROSE["ja"], language="ja", by_language=limits) == []
