"""The rules that FineWeb adds to those of Gopher and C4: ends of lines, short lines, repeated lines, many lines.

Source: Penedo et al., The FineWeb Datasets, https://arxiv.org/abs/2406.17557, section 3.5. The thresholds are
the paper's; for characters in repeated lines datatrove 0.10 takes 0.01 in place of 0.1.
"""

from data_tools.config.filtering import QualityThresholds
from data_tools.document import DroppedError
from data_tools.text.words import TextMeasure, measure_repeated


def check_fineweb(measure: TextMeasure, limits: QualityThresholds) -> None:
    """Raise for a text that breaks one of the rules."""
    lines = measure.lines
    num_lines = max(1, len(lines))
    ended = sum(line[-1] in limits.end_punctuation for line in lines) / num_lines
    if ended < limits.min_end_punctuation_share:
        raise DroppedError("fineweb_end_punctuation", f"{ended:.2f} of the lines")
    short = sum(len(line) <= limits.short_line_characters for line in lines) / num_lines
    if short > limits.max_short_line_share:
        raise DroppedError("fineweb_short_lines", f"{short:.2f} of the lines")
    repeated = measure_repeated(lines)[1] / max(1, sum(map(len, lines)))
    if repeated > limits.max_repeated_line_character_share:
        raise DroppedError("fineweb_repeated_lines", f"{repeated:.2f} of the characters")
    newlines = measure.text.count("\n") / max(1, measure.num_words)
    if newlines > limits.max_newline_ratio:
        raise DroppedError("fineweb_newlines", f"{newlines:.2f} per word")
