"""The quality and repetition rules of Gopher (Rae et al., 2021, table A1)."""

from dataclasses import dataclass

import numpy as np

from data_tools.config.filtering import QualityThresholds
from data_tools.document import DroppedError
from data_tools.text.words import TextMeasure, measure_repeated

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
    """Return how many of the language's stop words occur in a text."""
    if limits.match_stop_words_inside:
        return sum(word in measure.lowered for word in limits.stop_words)
    if not measure.characters_per_word:
        # What stands between spaces is lowered as it is within the text.
        return len(set(limits.stop_words).intersection(map(str.lower, measure.distinct_units)))
    return len(set(limits.stop_words).intersection(measure.lowered.split()))


FIRST_TOP_NGRAM = 2
FIRST_DUPLICATE_NGRAM = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class _Repeats:
    """N-grams of one size that occur more than once."""

    places: np.ndarray
    """[r] int64: the unit where each begins, ascending."""
    hashes: np.ndarray
    """[r] uint64: their hashes."""
    later: np.ndarray
    """Places of all but the first of equal ones."""
    most: int
    """How often the most frequent n-gram occurs."""
    most_frequent: np.ndarray
    """One place of each n-gram that occurs so often."""


def check_gopher_repetition(measure: TextMeasure, limits: QualityThresholds) -> None:
    """Raise for a text that breaks one of the rules."""
    _check_parts("line", measure.lines, limits.max_duplicate_line_share, limits.max_duplicate_line_character_share)
    _check_parts(
        "paragraph",
        measure.paragraphs,
        limits.max_duplicate_paragraph_share,
        limits.max_duplicate_paragraph_character_share,
    )
    _check_ngrams(measure, limits)


def _check_parts(name: str, parts: list[str], max_share: float, max_character_share: float) -> None:
    num_repeated, num_characters = measure_repeated(parts)
    share = num_repeated / max(1, len(parts))
    if share > max_share:
        raise DroppedError(f"gopher_duplicate_{name}s", f"{share:.2f} of the {name}s")
    character_share = num_characters / max(1, sum(map(len, parts)))
    if character_share > max_character_share:
        raise DroppedError(f"gopher_duplicate_{name}_characters", f"{character_share:.2f} of the characters")


def _check_ngrams(measure: TextMeasure, limits: QualityThresholds) -> None:
    scale = max(1, measure.characters_per_word)
    top = {(FIRST_TOP_NGRAM + i) * scale: (FIRST_TOP_NGRAM + i, s) for i, s in enumerate(limits.max_top_ngram_shares)}
    repeated = {
        (FIRST_DUPLICATE_NGRAM + i) * scale: (FIRST_DUPLICATE_NGRAM + i, share)
        for i, share in enumerate(limits.max_duplicate_ngram_shares)
    }
    ids = _spread(measure.unit_numbers)
    ends = np.concatenate([[0], np.cumsum(measure.unit_lengths)])
    # An n-gram is repeated only where the (n-1)-gram at its place is: few places are left after the first sizes.
    repeats = _Repeats(places=np.arange(len(ids)), hashes=ids, later=np.arange(0), most=0, most_frequent=np.arange(0))
    for size in range(2, max([*top, *repeated], default=1) + 1):
        repeats = _lengthen(repeats, ids, size=size)
        if not len(repeats.places):
            return
        if size in top:
            number, limit = top[size]
            share = _measure_top(repeats, size=size, ends=ends)
            if share > limit:
                raise DroppedError(f"gopher_top_{number}_gram", f"{share:.2f} of the characters")
        if size in repeated:
            number, limit = repeated[size]
            share = _measure_duplicates(repeats, size=size, ends=ends)
            if share > limit:
                raise DroppedError(f"gopher_duplicate_{number}_gram", f"{share:.2f} of the characters")


def _spread(numbers: np.ndarray) -> np.ndarray:
    """[u] uint64: equal values for equal numbers."""
    # Small numbers would collide under the multiplication.
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def _lengthen(shorter: _Repeats, ids: np.ndarray, *, size: int) -> _Repeats:
    """Find the n-grams that occur more than once, given those of n - 1."""
    fits = shorter.places + size <= len(ids)
    places = shorter.places[fits]
    if not len(places):
        return _Repeats(places=places, hashes=shorter.hashes[fits], later=places, most=0, most_frequent=places)
    hashes = shorter.hashes[fits] * _MULTIPLIER + ids[places + size - 1]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_equal = ordered[1:] == ordered[:-1]
    is_later = np.concatenate([[False], is_equal])
    is_repeated = is_later | np.concatenate([is_equal, [False]])
    # Lengths of the runs of equal hashes.
    firsts = np.flatnonzero(~is_later)
    counts = np.diff(np.append(firsts, len(ordered)))
    most = int(counts.max(initial=0))
    kept = np.sort(order[is_repeated])
    return _Repeats(
        places=places[kept],
        hashes=hashes[kept],
        later=places[order[is_later]],
        most=most,
        most_frequent=places[order[firsts[counts == most]]],
    )


def _measure_top(repeats: _Repeats, *, size: int, ends: np.ndarray) -> float:
    """Share of the characters in the most frequent n-gram; the longest of equally frequent ones."""
    starts = repeats.most_frequent
    longest = (ends[starts + size] - ends[starts]).max()
    return float(repeats.most * longest / ends[-1])


def _measure_duplicates(repeats: _Repeats, *, size: int, ends: np.ndarray) -> float:
    """Share of the characters in n-grams that stood before, counting overlaps once."""
    changes = np.zeros(len(ends), np.int64)
    changes[repeats.later] += 1
    changes[repeats.later + size] -= 1
    is_covered = np.cumsum(changes)[:-1] > 0
    return float(np.diff(ends)[is_covered].sum() / ends[-1])
