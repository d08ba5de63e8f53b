"""The quality rules of Gopher: length, words, symbols, bullets, stop words.

Source: Rae et al., Scaling Language Models, https://arxiv.org/abs/2112.11446, appendix A.1.1, "Quality filtering".
"""

from data_tools.document import DroppedError
from data_tools.quality_config import QualityThresholds
from data_tools.text_measure import TextMeasure

BULLETS = ("•", "‣", "◦", "●", "○", "■", "□", "▪", "▫", "▶", "◀", "·", "・", "–", "- ", "* ")
ELLIPSES = ("...", "…")


def check_gopher_quality(measure: TextMeasure, limits: QualityThresholds) -> None:
    """Raise for a text that breaks one of the rules."""
    num_words = measure.num_words
    if num_words < limits.min_words:
        raise DroppedError("gopher_few_words", f"{num_words} words")
    if num_words > limits.max_words:
        raise DroppedError("gopher_many_words", f"{num_words} words")
    mean = measure.num_characters / max(1, num_words)
    if not limits.min_mean_word_length <= mean <= limits.max_mean_word_length:
        raise DroppedError("gopher_word_length", f"mean {mean:.1f}")
    _check_symbols(measure, limits)
    if measure.alphabetic_share < limits.min_alphabetic_share:
        raise DroppedError("gopher_letters", f"{measure.alphabetic_share:.2f} of the words")
    if limits.min_alphabetic_run_share and measure.alphabetic_run_share < limits.min_alphabetic_run_share:
        raise DroppedError("gopher_letters", f"{measure.alphabetic_run_share:.2f} of what stands between spaces")
    if limits.stop_words and limits.min_stop_words:
        found = count_stop_words(measure, limits)
        if found < limits.min_stop_words:
            raise DroppedError("gopher_stop_words", f"{found} of {len(limits.stop_words)}")


def _check_symbols(measure: TextMeasure, limits: QualityThresholds) -> None:
    text, num_words = measure.text, max(1, measure.num_words)
    num_ellipses = text.count("...") + text.count("…")
    symbols = max(text.count("#"), num_ellipses)
    if symbols / num_words > limits.max_symbol_ratio:
        raise DroppedError("gopher_symbols", f"{symbols} in {num_words} words")
    lines = measure.lines
    bullets = sum(line.startswith(BULLETS) for line in lines) / max(1, len(lines))
    if bullets > limits.max_bullet_line_share:
        raise DroppedError("gopher_bullets", f"{bullets:.2f} of the lines")
    ellipses = sum(line.endswith(ELLIPSES) for line in lines) / max(1, len(lines))
    if ellipses > limits.max_ellipsis_line_share:
        raise DroppedError("gopher_ellipses", f"{ellipses:.2f} of the lines")


def count_stop_words(measure: TextMeasure, limits: QualityThresholds) -> int:
    """How many of the language's stop words occur in a text."""
    if limits.match_stop_words_inside:
        return sum(word in measure.lowered for word in limits.stop_words)
    if not measure.characters_per_word:
        # What stands between spaces is lowered as it is within the text.
        return len(set(limits.stop_words).intersection(map(str.lower, measure.distinct_units)))
    return len(set(limits.stop_words).intersection(measure.lowered.split()))
