"""Lines are removed as the configuration says, and paragraphs stay apart."""

import pytest

from data_tools.config.filtering import LineConfig, QualityConfig
from data_tools.filters.lines import LineCleaner
from data_tools.filters.quality.filter import ThresholdTable
from tests.data_tools.step_results import apply_step


def clean(text: str, *, language: str = "en", **config: object) -> str:
    cleaner = LineCleaner(LineConfig(**config), thresholds_of=ThresholdTable(QualityConfig()))
    assert cleaner.is_active
    kept, ledger = apply_step(cleaner, text, language=language)
    if not kept:
        assert ledger.dropped == {"no_line_left": 1}
    return kept[0].text if kept else ""


def test_nothing_is_done_by_default():
    assert not LineCleaner(LineConfig(), thresholds_of=ThresholdTable(QualityConfig())).is_active


def test_notices_are_removed():
    text = "First line.\n\nPlease Enable JavaScript now.\n\nLast line."
    assert clean(text, drop_containing=["enable javascript"]) == "First line.\n\nLast line."
    assert clean("a.b", drop_containing=["a+b"]) == "a.b"


def test_short_lines_are_removed_by_the_words_of_their_language():
    assert clean("Home\nThis is a line\nTwo words", min_words=3) == "This is a line"
    assert clean("首页\n这是一个句子\n新闻", language="zh", min_words=3) == "这是一个句子"


def test_lines_without_end_punctuation_are_removed():
    text = "A sentence.\nA heading\n一句话。\nسؤال؟\n“Quoted.”  "
    assert clean(text, require_end_punctuation=True) == "A sentence.\n一句话。\nسؤال؟\n“Quoted.”"


def test_repeated_lines_are_removed_but_for_short_ones():
    text = "A longer line.\n}\nA longer line.\n}\n  A longer line.\nEnd."
    assert clean(text, drop_repeated=True) == "A longer line.\n}\n}\nEnd."


def test_citations_are_removed():
    assert clean("True.[12] So[citation needed] x[i] [2024a]", remove_citations=True) == "True. So x[i] [2024a]"


def test_a_document_without_lines_is_dropped():
    assert clean("Home\nNews", min_words=3) == ""


@pytest.mark.parametrize(
    "line", ["Use Coo\u212aies here", "u\u017fe cookies", "USE COOKIES", "use cook\u0130es", "use cook\u0131es"]
)
def test_phrases_match_without_regard_to_case_beyond_ascii(line):
    assert clean(f"Stays.\n{line}\nToo.", drop_containing=["use cookies"]) == "Stays.\nToo."
