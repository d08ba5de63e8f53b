"""Rows of a cache: texts in progress come first, and a row's content moves with its text."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.model_runner import MoveRow
from trainer.inference.rows import MIN_SHARED_TOKENS, CachedText, Rows

NUM_ROWS = 4
COMMON = list(range(100, 100 + MIN_SHARED_TOKENS))


class Memory:
    """What a cache would hold, as lists of tokens."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = [[] for _ in range(NUM_ROWS)]

    def move(self, moves: Sequence[MoveRow]) -> None:
        for move in moves:
            source, target = self.rows[move.source], self.rows[move.target]
            kept = source[: move.length], target[: move.length]
            self.rows[move.target] = kept[0] + target[move.length :]
            if move.swaps:
                self.rows[move.source] = kept[1] + source[move.length :]

    def write(self, row: int, tokens: Sequence[int], *, start: int) -> None:
        self.rows[row][start:] = tokens


@given(data=st.data())
def test_a_row_holds_the_tokens_that_it_is_said_to(data: st.DataObject) -> None:
    rows, memory = Rows(NUM_ROWS), Memory()
    active: list[CachedText] = []
    for _ in range(data.draw(st.integers(1, 25))):
        if active and (not rows.has_room or data.draw(st.booleans())):
            memory.move(rows.release(active.pop(data.draw(st.integers(0, len(active) - 1)))))
        else:
            prompt = COMMON[: data.draw(st.integers(1, len(COMMON)))] + data.draw(
                st.lists(st.integers(0, 1), min_size=1, max_size=3)
            )
            text, moves = rows.take(prompt)
            memory.move(moves)
            assert text.tokens == prompt[: len(text.tokens)]
            assert len(text.tokens) < len(prompt)
            memory.write(rows.row_of(text), prompt[len(text.tokens) :], start=len(text.tokens))
            text.tokens += prompt[len(text.tokens) :]
            active.append(text)
        assert rows.num_active == len(active)
        assert sorted(rows.row_of(text) for text in active) == list(range(len(active)))
        for text in active:
            assert memory.rows[rows.row_of(text)][: len(text.tokens)] == text.tokens


def test_the_row_that_was_released_first_is_overwritten() -> None:
    rows = Rows(3)
    texts = []
    for first in (0, 1, 2):
        text, _ = rows.take([first, *COMMON, 0])
        text.tokens += [first, *COMMON]
        texts.append(text)
    for text in (texts[1], texts[2], texts[0]):
        rows.release(text)
    rows.take([7, 8])
    kept = [rows.take([first, *COMMON, 1])[0].tokens for first in (2, 0)]
    assert kept == [[2, *COMMON], [0, *COMMON]]


def test_a_short_beginning_is_not_kept() -> None:
    rows = Rows(1)
    text, _ = rows.take([1, 2, 3])
    text.tokens += [1, 2, 3]
    rows.release(text)
    assert rows.take([1, 2, 3, 4])[0].tokens == []
