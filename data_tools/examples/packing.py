"""Pack examples into rows of one length by best fit: each goes where the least room is left over."""

from bisect import bisect_left, insort

import numpy as np


def pack_best_fit(lengths: np.ndarray, *, seq_length: int) -> list[list[int]]:
    """Assign examples to rows by best fit decreasing.

    The longest example is placed first, each into the fullest row that has room for it, or into a new one. Rows with
    equal room are kept in a list per room, and the rooms in a sorted list of at most seq_length numbers, so placing an
    example takes a binary search. At most 11/9 of the fewest possible rows (plus 6/9) are used.

    Args:
        lengths: [n] integers, 1 to seq_length.
    Returns:
        The examples of each row, ascending; rows are in the order of their first example. Equal input gives equal rows.
    Source: D. S. Johnson, Near-optimal bin packing algorithms, 1973; packing of training sequences by best fit: Ding
        et al., Fewer Truncations Improve Language Modeling, 2024.
    """
    assert not len(lengths) or (lengths.min() >= 1 and lengths.max() <= seq_length), "an example does not fit"
    rows: list[list[int]] = []
    rows_with: dict[int, list[int]] = {}
    """Room left -> rows."""
    rooms: list[int] = []
    """Keys of rows_with, ascending."""
    for example in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        length = int(lengths[example])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(rows), seq_length
            rows.append([])
        else:
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rows_with[room], rooms[place]
        rows[row].append(example)
        left = room - length
        if left:
            if left not in rows_with:
                insort(rooms, left)
                rows_with[left] = []
            rows_with[left].append(row)
    for examples in rows:
        examples.sort()
    return sorted(rows)
