"""Drop low-quality documents by published rules, with thresholds by language."""

import dataclasses
from collections.abc import Callable
from typing import Any

from data_tools.config.filtering import QualityConfig, QualityThresholds
from data_tools.document import Document
from data_tools.filters.quality.c4 import check_c4
from data_tools.filters.quality.fineweb import check_fineweb
from data_tools.filters.quality.gopher import check_gopher_quality, check_gopher_repetition
from data_tools.filters.quality.stop_words import STOP_WORDS, STOP_WORDS_WITHIN
from data_tools.ledger import Ledger
from data_tools.text.words import TextMeasure

_HAN = {
    "characters_per_word": 2,
    "match_stop_words_inside": True,
    "min_mean_word_length": 1,
    # Each mark of punctuation is a unit of its own.
    "min_alphabetic_share": 0.65,
    "short_line_characters": 12,
    # Twice the papers': a phrase of ten characters says less than five English words, so prose repeats more of them.
    # At 0.15 one in ten pages of Chinese manuals falls; repeated lines reach 0.6 and more.
    "max_duplicate_ngram_shares": [0.3, 0.28, 0.26, 0.24, 0.22, 0.2],
}
_CHINESE = {**_HAN, "stop_words": list("的了是在和不有之也而以其")}
_NO_SPACES = {
    "characters_per_word": 4,
    "match_stop_words_inside": True,
    "min_stop_words": 4,
    "min_mean_word_length": 1,
    # Vowel signs are units that count as letters; what is left are digits and punctuation.
    "min_alphabetic_share": 0.85,
}
_NO_SENTENCE_END = {
    **_NO_SPACES,
    "min_stop_words": 6,
    # Lines of prose end without a sign: rows of menus are told by what stands between their entries. (A date is two
    # numbers and a word.)
    "min_alphabetic_run_share": 0.6,
    "min_sentences": 0,
    "min_end_punctuation_share": 0,
}
_SOUTH_SLAVIC = {"stop_words": STOP_WORDS["hr"].split()}

LANGUAGE_THRESHOLDS: dict[str, dict[str, Any]] = {
    **{language: {"stop_words": words.split()} for language, words in STOP_WORDS.items()},
    "bs": _SOUTH_SLAVIC,
    "sh": _SOUTH_SLAVIC,
    "zh": _CHINESE,
    "yue": _CHINESE,
    "wuu": _CHINESE,
    "ja": {**_HAN, "stop_words": list("のはにをがでともす")},
    "ko": {
        "stop_words": ["는 ", "은 ", "을 ", "를 ", "의 ", "에 ", "이 ", "가 ", "다.", "고 "],
        "match_stop_words_inside": True,
        "min_mean_word_length": 1.5,
        "short_line_characters": 15,
    },
    "th": {**_NO_SENTENCE_END, "stop_words": STOP_WORDS_WITHIN["th"].split()},
    "lo": {**_NO_SENTENCE_END, "stop_words": STOP_WORDS_WITHIN["lo"].split()},
    "km": {**_NO_SPACES, "stop_words": STOP_WORDS_WITHIN["km"].split()},
    "my": {**_NO_SPACES, "stop_words": STOP_WORDS_WITHIN["my"].split()},
    # Syllables stand between the spaces, or between the marks.
    "vi": {"stop_words": STOP_WORDS["vi"].split(), "min_mean_word_length": 2.5},
    "bo": {"stop_words": STOP_WORDS["bo"].split(), "min_stop_words": 4, "min_mean_word_length": 1.5},
    # Long words, whose vowel signs are characters too: up to 14 on average in Malayalam, 11 in Tamil.
    "fi": {"stop_words": STOP_WORDS["fi"].split(), "max_mean_word_length": 12},
    "dv": {"max_mean_word_length": 13},
    "kn": {"max_mean_word_length": 13},
    "ml": {"max_mean_word_length": 17},
    "sa": {"max_mean_word_length": 13},
    "ta": {"stop_words": STOP_WORDS["ta"].split(), "min_stop_words": 1, "max_mean_word_length": 14},
    "te": {"max_mean_word_length": 13},
}
"""fastText's code -> what differs from `QualityThresholds`."""


class ThresholdTable:
    """The thresholds of every language."""

    def __init__(self, config: QualityConfig) -> None:
        self._default = config.thresholds
        languages = {*LANGUAGE_THRESHOLDS, *config.by_language}
        self._own = {
            language: dataclasses.replace(config.thresholds, **_differences(config, language)) for language in languages
        }

    def __call__(self, language: str) -> QualityThresholds:
        """Return the thresholds of a language."""
        return self._own.get(language, self._default)


def _differences(config: QualityConfig, language: str) -> dict[str, Any]:
    return {**LANGUAGE_THRESHOLDS.get(language, {}), **config.by_language.get(language, {})}


RULES: dict[str, Callable[[TextMeasure, QualityThresholds], None]] = {
    "gopher_quality": check_gopher_quality,
    "gopher_repetition": check_gopher_repetition,
    "c4": check_c4,
    "fineweb": check_fineweb,
}
"""Name in the configuration -> check, which raises `DroppedError` with the name of the rule that a text breaks."""


class QualityFilter:
    """Apply the configured rule sets, with the thresholds of each document's language."""

    def __init__(self, config: QualityConfig, *, thresholds_of: ThresholdTable) -> None:
        self._checks = [RULES[name] for name in config.rules]
        self._thresholds_of = thresholds_of

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise if a document breaks a rule."""
        limits = self._thresholds_of(document.language)
        measure = TextMeasure(document.text, characters_per_word=limits.characters_per_word)
        for check in self._checks:
            check(measure, limits)
