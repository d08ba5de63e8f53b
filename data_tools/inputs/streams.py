"""Input files as streams of bytes: counted, decompressed, through several bzip2 or xz streams one after another."""

import bz2
import gzip
import io
import lzma
import re
from typing import Any

import pyarrow

from data_tools.errors import UnreadableInputError

CHUNK_BYTES = 64 << 10
BZIP2_START = re.compile(rb"BZh[1-9]1AY&SY")
"""Head of a stream and of its first block."""
BZIP2_START_BYTES = 10


class DamagedStreamError(OSError):
    """A stream cannot be decompressed further; the next read continues at the following stream."""


class JoinedStreams(io.RawIOBase):
    """The decompressed bytes of all streams in a file, in steps of which each fails on its own."""

    def __init__(self, stream: Any, *, is_bzip2: bool) -> None:
        self._stream, self._is_bzip2 = stream, is_bzip2
        self._decompressor: Any = None
        self._data = b""
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
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


MAGIC_BYTES = 10
_BZIP2_START = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""A stream with a block, or an empty one; a text may begin with BZh."""


class CountedStream(io.RawIOBase):
    """A stream that knows how much was read from it; closes the stream below."""

    def __init__(self, stream: Any, *, owner: Any = None) -> None:
        self._stream = stream
        self._owner = owner  # a zip is closed as soon as nobody holds it, with the files in it that are open
        self._peeked = b""
        self.bytes_read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the stream below can seek; that of a web server that sends no parts of files cannot."""
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move in the stream below."""
        if whence == io.SEEK_CUR:
            offset -= len(self._peeked)
        self._peeked = b""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Place of the next byte."""
        return int(self._stream.tell()) - len(self._peeked)

    def peek(self, size: int) -> bytes:
        """Return the next size bytes, fewer at the end, which stay to be read; works where seeking does not."""
        while len(self._peeked) < size and (data := self._read_below(size - len(self._peeked))):
            self._peeked += data
        return self._peeked[:size]

    def read(self, size: int = -1, /) -> bytes:
        """Read at most size bytes."""
        if not self._peeked:
            return self._read_below(size)
        if size < 0:
            data, self._peeked = self._peeked, b""
            return data + self._read_below(size)
        data, self._peeked = self._peeked[:size], self._peeked[size:]
        return data

    def _read_below(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self.bytes_read += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the stream below too."""
        if not self.closed:
            self._stream.close()
        super().close()


class UnopenedStream(io.RawIOBase):
    """Stands for a file that cannot be opened: the first read tells, where the ledger counts it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Raise UnreadableInputError."""
        reason = "file_missing" if isinstance(self._error, FileNotFoundError) else "file_unreadable"
        raise UnreadableInputError(reason, f"{type(self._error).__name__}: {self._error}") from self._error


class _SingleReads(io.RawIOBase):
    """Reads a decompressing stream in steps that each fail on their own: what came before damaged data is not lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Place in the decompressed data; fastwarc asks for it."""
        return int(self._stream.tell())

    def readinto(self, buffer: Any, /) -> int:
        """Read what one step gives."""
        data = self._stream.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def decompress(stream: CountedStream) -> io.BufferedReader:
    """Undo gzip, bzip2, xz or zstd, recognised by the first bytes; other streams are handed back buffered."""
    magic = stream.peek(MAGIC_BYTES)
    buffered: io.BufferedReader = io.BufferedReader(stream, 1 << 20)
    if magic.startswith(b"\x1f\x8b\x08"):
        return io.BufferedReader(_SingleReads(gzip.GzipFile(fileobj=buffered)), 1 << 20)
    if _BZIP2_START.match(magic):
        return io.BufferedReader(JoinedStreams(buffered, is_bzip2=True), 1 << 20)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(JoinedStreams(buffered, is_bzip2=False), 1 << 20)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        # pyarrow is there for the document tables; the standard library has no zstd before Python 3.14.
        decompressed = pyarrow.CompressedInputStream(pyarrow.PythonFile(buffered), "zstd")
        return io.BufferedReader(decompressed, 1 << 20)
    return buffered
