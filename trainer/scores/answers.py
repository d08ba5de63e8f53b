"""Choose the answer to a question from the scores of its windows. n: tokens of a window's document."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trireme.shards.questions import ContextPlace

MAX_ANSWER_TOKENS = 30
"""Longest answer that is considered, that of the reference scripts for SQuAD."""


class WindowAnswer(NamedTuple):
    """Hold the best passage of a window's part of the text."""

    score: float
    """Sum of the scores of its first and last token."""
    first: int
    """Its first token, counted in the part."""
    last: int
    no_answer: float
    """Score of there being no answer: that of the document's first token."""


def find_answer(scores: np.ndarray, context: ContextPlace) -> WindowAnswer:
    """Return the passage with the highest sum of scores.

    Args:
        scores: [n, 2] floats.
        context: place of the part in the document.
    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 4.3.
    """
    here = scores[context.begin : context.begin + context.num_tokens].astype(np.float64)
    sums = here[:, 0][:, None] + here[:, 1][None, :]
    length = np.arange(len(here))[None, :] - np.arange(len(here))[:, None]
    sums = np.where((length >= 0) & (length < MAX_ANSWER_TOKENS), sums, -np.inf)
    first, last = divmod(int(sums.argmax()), len(here))
    return WindowAnswer(float(sums[first, last]), first, last, float(scores[0].sum()))


def choose_window(found: Sequence[WindowAnswer]) -> tuple[int, bool]:
    """Return the window of a question whose passage has the highest score, and whether it is the answer.

    There is none if every window says so: the lowest score of that is compared with the highest of a passage.

    Args:
        found: of all windows, in the order of the text; at least one.
    Source: transformers, utils_qa.py.
    """
    best = max(range(len(found)), key=lambda number: found[number].score)
    return best, min(one.no_answer for one in found) <= found[best].score


def cut_answer(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, int]:
    """Return the passage of some tokens of a text, and where it begins; a token may include spaces around it.

    Args:
        offsets: characters [begin, end) of the first and of the last of these tokens.
    """
    begin, end = offsets[0][0], offsets[-1][1]
    passage = text[begin:end]
    return passage.strip(), begin + len(passage) - len(passage.lstrip())
