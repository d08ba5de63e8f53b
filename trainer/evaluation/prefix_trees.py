"""Join texts that begin alike into trees, so that what they share is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MASKED_TOKENS = 8192
"""Tokens of a tree of different texts at most: its mask has a value for each pair of them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Ask for the log-probabilities of tokens, each after the ones before it."""

    tokens: tuple[int, ...]
    """The text without its last token, of which only the log-probability matters."""
    targets: tuple[int, ...]
    """The text's last tokens, at most as many as `tokens`."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Hold where in a tree a question is."""

    number: int
    """Of the question."""
    places: tuple[int, ...]
    """Tokens of the tree whose logits predict the targets."""
    targets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Hold the tokens of some questions, depth first."""

    tokens: tuple[int, ...]
    depths: np.ndarray
    """[tokens] integers: how many tokens of its text precede each."""
    branches: tuple[Branch, ...]
    places: tuple[int, ...]
    """Tokens whose logits are needed, ascending."""

    def __len__(self) -> int:
        return len(self.tokens)


def build_trees(questions: Sequence[Question], *, max_tokens: int, max_places: int, pair_cost: float) -> list[Tree]:
    """Join questions where this makes their computation cheaper.

    Questions are taken in the order of their tokens, so that those with the longest common beginnings are neighbors, as
    SGLang orders requests for its cache of prefixes (Zheng et al. 2024, arXiv:2312.07104). One joins the tree of its
    neighbors if its own tokens there cost less than all its tokens in a tree of their own.

    Args:
        max_tokens: of a tree of different texts, or twice those of its first one, if this is more: a context that alone
            has more is computed once too. At most 8,192, however.
        max_places: tokens of a tree of several questions whose logits are needed.
        pair_cost: what attention between two tokens costs, as a share of all else that a token costs; the mask is
            dense, so all pairs of tokens of a tree count.
    Returns:
        trees, the same for the same questions.
    """
    trees: list[Tree] = []
    grower = _Grower()
    for number in sorted(range(len(questions)), key=lambda number: questions[number].tokens):
        question = questions[number]
        shared, size, length = grower.count_shared(question.tokens), len(grower.tokens), len(question.tokens)
        added = length - shared
        joined = added + pair_cost * ((size + added) ** 2 - size**2)
        limit = min(max(max_tokens, 2 * grower.first_length), _MASKED_TOKENS)
        fits = not added or size + added <= limit
        fits = fits and len(grower.places) + len(question.targets) <= max_places
        if size and not (fits and joined < length + pair_cost * length**2):
            trees.append(grower.finish())
            grower, shared = _Grower(), 0
        grower.add(number, question, shared=shared)
    return [*trees, grower.finish()] if questions else []


class _Grower:
    """Collect the questions of one tree, in the order of their tokens."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.places: set[int] = set()
        self.first_length = 0
        """Tokens of the first question."""
        self._depths: list[int] = []
        self._path: list[int] = []
        """Tokens of the tree that are the last question."""
        self._branches: list[Branch] = []

    def count_shared(self, tokens: Sequence[int]) -> int:
        """Return how many tokens a question has in common with the beginning of the last one."""
        count = 0
        for place, token in zip(self._path, tokens, strict=False):
            if self.tokens[place] != token:
                break
            count += 1
        return count

    def add(self, number: int, question: Question, *, shared: int) -> None:
        """Add a question that has `shared` tokens in common with the last one."""
        first = len(self.tokens)
        self.first_length = self.first_length or len(question.tokens)
        added = question.tokens[shared:]
        self.tokens += added
        self._depths += range(shared, len(question.tokens))
        self._path = [*self._path[:shared], *range(first, first + len(added))]
        places = tuple(self._path[-len(question.targets) :])
        self.places.update(places)
        self._branches.append(Branch(number=number, places=places, targets=question.targets))

    def finish(self) -> Tree:
        """Return the tree."""
        return Tree(
            tokens=tuple(self.tokens),
            depths=np.array(self._depths, dtype=np.int64),
            branches=tuple(self._branches),
            places=tuple(sorted(self.places)),
        )


def build_batches(trees: Sequence[Tree], *, max_tokens: int, max_places: int) -> list[list[Tree]]:
    """Divide trees into batches of similar length.

    Args:
        max_tokens: of a batch, with the padding of shorter trees; a single tree may have more.
        max_places: tokens of a batch whose logits are needed; a single tree may have more.
    """
    batches: list[list[Tree]] = []
    num_places = 0
    for tree in sorted(trees, key=len, reverse=True):
        num_places += len(tree.places)
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > max_tokens or num_places > max_places:
            batches.append([])
            num_places = len(tree.places)
        batches[-1].append(tree)
    return batches
