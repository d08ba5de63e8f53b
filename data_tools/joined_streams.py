"""Decompress files of several bzip2 or xz streams, one behind the other, without passing over damage in silence.

Python's own BZ2File and LZMAFile take a damaged stream behind a whole one for garbage and end there without an error;
in a multistream dump of Wikipedia that would lose all pages behind it.
"""

import bz2
import io
import lzma
import re
from typing import Any

CHUNK_BYTES = 64 << 10
BZIP2_START = re.compile(rb"BZh[1-9]1AY&SY")
"""Head of a stream and of its first block."""
BZIP2_START_BYTES = 10


class DamagedStreamError(OSError):
    """A stream cannot be decompressed further; the next read goes on at the stream behind it."""


class JoinedStreams(io.RawIOBase):
    """The decompressed bytes of all streams in a file, in steps of which each fails on its own."""

    def __init__(self, stream: Any, *, is_bzip2: bool) -> None:
        self._stream, self._is_bzip2 = stream, is_bzip2
        self._decompressor: Any = None
        self._data = b""
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Place in the decompressed data; fastwarc asks for it."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Read what one step gives.

        Raises:
            DamagedStreamError: a bzip2 stream is damaged.
            EOFError: the last stream is cut.
            lzma.LZMAError: an xz stream is damaged.
        """
        decompressed = b""
        while not decompressed:
            if not self._data and (self._decompressor is None or self._decompressor.needs_input):
                self._data = self._stream.read(CHUNK_BYTES)
                if not self._data:
                    if self._decompressor is None:
                        return 0
                    self._decompressor = None
                    raise EOFError("compressed file ended before its end-of-stream marker")
            decompressed = self._decompress(len(buffer))
        buffer[: len(decompressed)] = decompressed
        self._position += len(decompressed)
        return len(decompressed)

    def _decompress(self, size: int) -> bytes:
        if self._decompressor is None:
            self._decompressor = bz2.BZ2Decompressor() if self._is_bzip2 else lzma.LZMADecompressor()
        data, self._data = self._data, b""
        try:
            decompressed: bytes = self._decompressor.decompress(data, size)
        except OSError as error:
            self._find_next(data)
            raise DamagedStreamError(f"{error}; went on at the next whole stream, if there is one") from error
        if self._decompressor.eof:
            self._data = self._decompressor.unused_data
            if not self._is_bzip2:
                # xz files may be padded with zeros between streams.
                self._data = self._data.lstrip(b"\0")
            self._decompressor = None
        return decompressed

    def _find_next(self, data: bytes) -> None:
        """Go to the next bzip2 stream."""
        self._decompressor = None
        # The damaged stream's own head must not be found again.
        data = data[1:]
        while (start := BZIP2_START.search(data)) is None:
            more = self._stream.read(CHUNK_BYTES)
            if not more:
                return
            data = data[-BZIP2_START_BYTES + 1 :] + more
        self._data = data[start.start() :]
