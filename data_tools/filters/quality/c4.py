"""The rules of C4 that drop whole documents; data_tools/filters/lines.py has those that remove lines.

Source: Raffel et al., Exploring the Limits of Transfer Learning, https://arxiv.org/abs/1910.10683, section 2.2.
"""

import re

from data_tools.config.filtering import QualityThresholds
from data_tools.document import DroppedError
from data_tools.text.words import TextMeasure

_SENTENCE_END = re.compile(r"[.!?؟۔।॥։።፧፨។៕။།༎…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+")


def check_c4(measure: TextMeasure, limits: QualityThresholds) -> None:
    """Raise for a text that breaks one of the rules."""
    for phrase in limits.forbidden_phrases:
        if phrase.lower() in measure.lowered:
            raise DroppedError("c4_phrase", phrase)
    if not limits.may_contain_curly_bracket and "{" in measure.text:
        raise DroppedError("c4_curly_bracket")
    longest = max(map(len, measure.units), default=0)
    if longest > limits.max_word_length:
        raise DroppedError("c4_long_word", f"{longest} characters")
    num_sentences = count_sentences(measure.text)
    if num_sentences < limits.min_sentences:
        raise DroppedError("c4_few_sentences", f"{num_sentences} sentences")


def count_sentences(text: str) -> int:
    """Return how often a text has a sign that ends a sentence."""
    return len(_SENTENCE_END.findall(text))
