"""Split a JSON array, or JSON objects that span several lines, into elements, in constant memory."""

import re
from collections.abc import Iterator
from typing import BinaryIO

READ_BYTES = 1 << 20
_OUTSIDE = re.compile(rb'["{}\[\],]')
"""What matters between strings."""
_INSIDE = re.compile(rb'["\\]')
"""What matters within one."""
_SPACE = b" \t\r\n"


def holds_many_lines(start: bytes) -> bool:
    """Return whether a file that begins so is a JSON array, or has objects of more than one line."""
    first = start.lstrip(_SPACE)
    return first.startswith(b"[") or re.match(rb"\{[ \t]*\r?\n", first) is not None


def split_values(stream: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield offset and bytes of each element of an array, or of each object where they just follow each other.

    What is damaged is yielded as it is, to fail when it is parsed; a cut one comes last. Of one with more than `limit`
    bytes the bytes are None.
    """
    element = _Element(limit)
    is_in_string = is_array = False
    depth = base = 0
    while data := stream.read(READ_BYTES):
        place = search = 0
        while found := (_INSIDE if is_in_string else _OUTSIDE).search(data, search):
            sign, search = found[0], found.end()
            ends_at = None
            if sign == b"\\":
                if search == len(data):  # the escaped character is in the next piece
                    data += stream.read(1)
                search += 1
            elif sign == b'"':
                is_in_string = not is_in_string
            elif sign == b"[" and not depth and not is_array and not element.holds_more(data[place : found.start()]):
                is_array = True
                place = search
                element.start(base + search)
            elif sign in b"{[":
                depth += 1
            elif sign in b"}]" and depth:
                depth -= 1
                ends_at = None if depth or is_array else search
            elif sign in b",]" and not depth:
                is_array = is_array and sign == b","
                ends_at = found.start()
            if ends_at is not None:
                element.add(data[place:ends_at])
                yield from element.take()
                place = search
                element.start(base + search)
        element.add(data[place:])
        base += len(data)
    yield from element.take()


class _Element:
    """The bytes of an element as they come."""

    def __init__(self, limit: int) -> None:
        self._limit, self._offset = limit, 0
        self._content = bytearray()
        self._is_too_large = False

    def start(self, offset: int) -> None:
        """Begin an element."""
        self._offset = offset
        self._content.clear()
        self._is_too_large = False

    def add(self, piece: bytes) -> None:
        """Add bytes, unless they are too many."""
        if not self._is_too_large:
            self._content += piece
            if len(self._content) > self._limit:
                self._is_too_large = True
                self._content.clear()

    def holds_more(self, piece: bytes) -> bool:
        """Return whether there is anything but space in it, with another piece."""
        return self._is_too_large or bool((self._content + piece).strip(_SPACE))

    def take(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield it, unless it is empty."""
        start = len(self._content) - len(self._content.lstrip(_SPACE))
        content = bytes(self._content.strip(_SPACE))
        if self._is_too_large:
            yield self._offset, None
        elif content:
            yield self._offset + start, content
