"""Assign texts to the rows of a replica's cache, so that texts in progress are its first rows.

A step then reads the cache without copying it. Rows of finished texts keep their keys and values until the room is
needed: a prompt that begins like one of them, such as the next message of a conversation, starts there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.inference.model_runner import MoveRow

MIN_SHARED_TOKENS = 16
"""Fewer equal tokens at the beginning are not worth a copy."""


@dataclass(eq=False)
class CachedText:
    """Hold the tokens of a row whose keys and values are in the cache."""

    tokens: list[int] = field(default_factory=list)
    adapter: int = 0
    """Number of the adapter that computed them."""
    released: int = 0
    """Number of its release; 0 before the first."""

    def count_shared(self, prompt: Sequence[int], *, adapter: int, limit: int) -> int:
        """Return how many tokens of a prompt for an adapter are at the beginning of this text, at most `limit`."""
        return _count_shared(self.tokens, prompt, limit=limit) if adapter == self.adapter else 0


class Rows:
    """Hold the assignment of one replica's rows.

    Args:
        num_rows: texts in progress at most.
    """

    def __init__(self, num_rows: int) -> None:
        self._active: list[CachedText] = []
        self._idle = [CachedText() for _ in range(num_rows)]
        """Rows after the active ones, of finished texts."""
        self._num_released = 0

    @property
    def num_active(self) -> int:
        """Return the number of texts in progress."""
        return len(self._active)

    @property
    def has_room(self) -> bool:
        """Return whether another text can begin."""
        return bool(self._idle)

    def row_of(self, text: CachedText) -> int:
        """Return the row of a text in progress."""
        return next(row for row, active in enumerate(self._active) if active is text)

    def take(self, prompt: Sequence[int], *, adapter: int = 0) -> tuple[CachedText, list[MoveRow]]:
        """Begin a text in a free row; its tokens are those of the prompt that are in the cache already.

        At least the prompt's last token is not, since its logits are needed. Keys and values of another adapter are not
        used.

        Returns:
            the text, and what to move in the cache before the next step.
        """
        row, limit = len(self._active), len(prompt) - 1
        shared = [text.count_shared(prompt, adapter=adapter, limit=limit) for text in self._idle]
        best = max(range(len(self._idle)), key=lambda number: shared[number])
        copied = [text.count_shared(prompt, adapter=adapter, limit=limit) for text in self._active]
        moves: list[MoveRow] = []
        if max(copied, default=0) >= max(shared[best] + MIN_SHARED_TOKENS, MIN_SHARED_TOKENS):
            source = max(range(len(copied)), key=lambda number: copied[number])
            self._bring_first(self._find_oldest(), moves)
            moves.append(MoveRow(source=source, target=row, length=copied[source], swaps=False))
            self._idle[0].tokens = list(prompt[: copied[source]])
        elif shared[best] >= MIN_SHARED_TOKENS:
            self._bring_first(best, moves)
            self._idle[0].tokens = list(prompt[: shared[best]])
        else:
            self._bring_first(self._find_oldest(), moves)
            self._idle[0].tokens = []
        text = self._idle.pop(0)
        text.adapter = adapter
        self._active.append(text)
        return text, moves

    def release(self, text: CachedText) -> list[MoveRow]:
        """End a text; return what to move in the cache before the next step."""
        row, last = self.row_of(text), len(self._active) - 1
        moves: list[MoveRow] = []
        if row != last:
            moves.append(_swap(row, last, length=max(len(text.tokens), len(self._active[last].tokens))))
            self._active[row], self._active[last] = self._active[last], self._active[row]
        self._num_released += 1
        text.released = self._num_released
        self._idle.insert(0, self._active.pop())
        return moves

    def _find_oldest(self) -> int:
        """Return the idle row to overwrite: one that holds nothing, or else the one that was released first."""
        ages = [text.released if text.tokens else 0 for text in self._idle]
        return ages.index(min(ages))

    def _bring_first(self, number: int, moves: list[MoveRow]) -> None:
        """Exchange an idle row with the first one; only rows that hold something move in the cache."""
        if number == 0:
            return
        first, other = self._idle[0], self._idle[number]
        base = len(self._active)
        if first.tokens or other.tokens:
            moves.append(_swap(base, base + number, length=max(len(first.tokens), len(other.tokens))))
        self._idle[0], self._idle[number] = other, first


def _swap(first: int, second: int, *, length: int) -> MoveRow:
    return MoveRow(source=first, target=second, length=length, swaps=True)


def _count_shared(kept: Sequence[int], prompt: Sequence[int], *, limit: int) -> int:
    """Return how many tokens two texts have in common at their beginning, at most `limit`."""
    count = 0
    for ours, theirs in zip(kept, prompt[:limit], strict=False):
        if ours != theirs:
            break
        count += 1
    return count
