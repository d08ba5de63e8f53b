"""Score answers that are parts of a text, by the rules of SQuAD."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def split_answer(text: str) -> list[str]:
    """Return the words of an answer that count: lower case, without punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def score_spans(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score the answers to questions. The best of several right answers counts.

    Args:
        predicted: the answer to each question, at least one; "" says that there is none.
        answers: right ones for each question; none, or "", for a question without an answer.
    Returns:
        exact_match, the share of answers whose words are those of a right one; f1, the mean F1 of their words. Where
        questions without answers are among others, also both for each kind: has_answer_exact_match, has_answer_f1,
        no_answer_exact_match, no_answer_f1. All from 0 to 1.
    Source: Rajpurkar et al. 2018 (SQuAD 2.0, arXiv:1806.03822), the official evaluation script.
    """
    matches, overlaps, has_answer = [], [], []
    for text, candidates in zip(predicted, answers, strict=True):
        words = split_answer(text)
        right = [split_answer(one) for one in candidates if split_answer(one)] or [[]]
        matches.append(float(words in right))
        overlaps.append(max(_overlap(words, one) for one in right))
        has_answer.append(right != [[]])
    scores = {"exact_match": _mean(matches), "f1": _mean(overlaps)}
    if len(set(has_answer)) < 2:
        return scores
    for prefix, kind in (("has_answer", True), ("no_answer", False)):
        chosen = [number for number, has in enumerate(has_answer) if has is kind]
        scores[f"{prefix}_exact_match"] = _mean([matches[number] for number in chosen])
        scores[f"{prefix}_f1"] = _mean([overlaps[number] for number in chosen])
    return scores


def _overlap(one: list[str], other: list[str]) -> float:
    """Return the F1 of two lists of words; of an empty one it is 1 if the other is empty too."""
    if not one or not other:
        return float(one == other)
    return 2 * (Counter(one) & Counter(other)).total() / (len(one) + len(other))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
