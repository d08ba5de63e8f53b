"""Where languages differ from the papers' thresholds, which were made for English.

Chinese and Japanese have no spaces: with stock rules a paragraph is one word, and all of their prose is dropped. Korean
writes short words with the particles attached. Stop words are taken where they tell prose from lists of key words;
languages without an entry have none.
"""

import dataclasses
from typing import Any

from data_tools.quality_config import QualityConfig, QualityThresholds

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
_NO_SENTENCE_END = {
    "characters_per_word": 4,
    "min_mean_word_length": 1,
    "min_alphabetic_share": 0.6,
    "min_sentences": 0,
    "min_end_punctuation_share": 0,
}
_CHINESE = {**_HAN, "stop_words": list("的了是在和不有之也而以其")}

LANGUAGE_THRESHOLDS: dict[str, dict[str, Any]] = {
    "en": {"stop_words": ["the", "be", "to", "of", "and", "that", "have", "with"]},
    "de": {"stop_words": ["der", "die", "und", "in", "den", "von", "zu", "das", "mit", "ist", "nicht", "ein"]},
    "fr": {"stop_words": ["de", "la", "le", "et", "les", "des", "en", "un", "une", "que", "est", "dans"]},
    "es": {"stop_words": ["de", "la", "que", "el", "en", "y", "los", "se", "del", "las", "un", "con"]},
    "it": {"stop_words": ["di", "e", "il", "la", "che", "in", "un", "del", "per", "non", "con", "una"]},
    "pt": {"stop_words": ["de", "a", "o", "que", "e", "do", "da", "em", "um", "para", "com", "não"]},
    "nl": {"stop_words": ["de", "en", "van", "het", "een", "in", "is", "dat", "op", "te", "niet", "met"]},
    "pl": {"stop_words": ["i", "w", "na", "z", "się", "do", "nie", "to", "że", "jest", "o", "jak"]},
    "ru": {"stop_words": ["и", "в", "на", "не", "с", "что", "как", "по", "для", "из", "это", "к"]},
    "uk": {"stop_words": ["і", "в", "на", "не", "з", "що", "та", "до", "за", "це", "як", "у"]},
    "tr": {"stop_words": ["ve", "bir", "bu", "da", "de", "için", "ile", "olarak", "çok", "daha", "gibi", "olan"]},
    "vi": {
        "stop_words": ["và", "của", "là", "có", "được", "trong", "cho", "các", "một", "với", "không", "này"],
        # Syllables stand between the spaces.
        "min_mean_word_length": 2.5,
    },
    "id": {"stop_words": ["yang", "dan", "di", "dengan", "untuk", "dari", "ini", "pada", "itu", "dalam"]},
    "ar": {
        "stop_words": ["في", "من", "على", "أن", "إلى", "هذا", "هذه", "التي", "الذي", "لا", "ما", "عن", "مع", "أو"],
    },
    "fa": {"stop_words": ["و", "در", "به", "از", "که", "این", "را", "با", "است", "برای", "آن", "یک"]},
    "hi": {"stop_words": ["के", "में", "है", "की", "और", "से", "का", "को", "पर", "यह", "ने", "हैं"]},
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
    "th": _NO_SENTENCE_END,
    "lo": _NO_SENTENCE_END,
    "km": _NO_SENTENCE_END,
    "my": _NO_SENTENCE_END,
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
        """Thresholds of a language."""
        return self._own.get(language, self._default)


def _differences(config: QualityConfig, language: str) -> dict[str, Any]:
    return {**LANGUAGE_THRESHOLDS.get(language, {}), **config.by_language.get(language, {})}
