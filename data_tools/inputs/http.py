"""Read a file over http(s) as one stream, through broken connections and busy servers.

fsspec's HTTP file system serves for sessions, credentials, proxies and the loop that they run in. Its own files do not:
a stream ends with its connection, and a seekable file asks for block after block without noticing that the file has
changed between two of them. Here one request reads on to the end of the file. When its connection breaks, the next
request asks for the rest of the same version of the file (RFC 9110: Range, If-Range), and where the server knows no
ranges, what was read before is read again and skipped.
"""

import email.utils
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from fsspec.asyn import sync

from data_tools.errors import UnreadableInputError

MAX_PAUSE_SECONDS = 60.0
"""Longest pause that doubling comes to."""
MAX_RETRY_AFTER_SECONDS = 600.0
"""A server that asks for a longer pause counts as unreachable."""
SILENCE_SECONDS = 60.0
"""A connection that is not made, or says nothing, for so long counts as broken."""
FILL_BYTES = 1 << 20
"""How much is taken from a connection at a time."""
READ_THROUGH_BYTES = 1 << 20
"""A shorter way forward is read through; a longer one takes a new request."""

BUSY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another try may change."""
MISSING_STATUS = frozenset({404, 410})

_BROKEN = (aiohttp.ClientError, OSError, EOFError)
"""What a broken connection raises, a timeout among them."""
_HOPELESS = (aiohttp.InvalidURL, aiohttp.ClientSSLError, aiohttp.TooManyRedirects)
"""What no other attempt would change."""


@dataclass(frozen=True, kw_only=True)
class HttpVersion:
    """What tells a file from a later version of itself; each may be unknown."""

    size: int | None = None
    entity_tag: str = ""
    modified: str = ""

    @property
    def name(self) -> str:
        """Return the most exact of them."""
        return self.entity_tag or self.modified

    @property
    def range_condition(self) -> str:
        """Return what If-Range may say: no weak entity tag (RFC 9110, 13.1.5)."""
        return self.modified if self.entity_tag.startswith("W/") else self.name

    def describe(self) -> str:
        """Describe the version for messages."""
        return f"{self.name or 'without a version'} of {self.size if self.size is not None else 'unknown'} bytes"

    def differs_from(self, other: "HttpVersion") -> bool:
        """Return whether anything that both know is not equal."""
        pairs = ((self.size, other.size), (self.entity_tag, other.entity_tag), (self.modified, other.modified))
        return any(mine not in (None, "") and theirs not in (None, "") and mine != theirs for mine, theirs in pairs)


class _BusyError(OSError):
    """The server asks to come again."""

    def __init__(self, message: str, pause_seconds: float | None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class HttpStream(io.RawIOBase):
    """The bytes of a file as the server stores it; connects on the first use.

    Every failure that cannot be passed is an `UnreadableInputError`: `file_missing`, `file_unreadable` when nothing
    could be read, `file_changed`, `connection_lost` behind what was read.

    Args:
        file_system: fsspec's HTTPFileSystem, made with the user's options.
        max_retries: new attempts in a row without a byte more; where the server knows no ranges, in all.
        retry_seconds: pause before the first one; doubled each time.
        version_name: `HttpVersion.name` that the file must have; empty when it may be any.
    """

    def __init__(
        self, url: str, *, file_system: Any, max_retries: int, retry_seconds: float, version_name: str = ""
    ) -> None:
        self._url, self._file_system = url, file_system
        self._max_retries, self._retry_seconds = max_retries, retry_seconds
        self._version_name = version_name
        self._position = 0
        self._response: aiohttp.ClientResponse | None = None
        self._response_position = 0
        """Place in the file of the first byte of `_filled`."""
        self._filled = bytearray()
        self._break: BaseException | None = None
        """What broke the connection behind the bytes in `_filled`."""
        self._version: HttpVersion | None = None
        self._takes_ranges = False
        self._num_failures = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the server sends parts of the file."""
        self.connect()
        return self._takes_ranges and self._known_size is not None

    def tell(self) -> int:
        """Place in the file."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; nothing is asked of the server before the next read."""
        if not self.seekable():
            raise io.UnsupportedOperation(f"{self._url}: the server sends no parts of a file")
        assert self._known_size is not None
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._known_size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def connect(self, *, will_read: bool = True) -> HttpVersion:
        """Ask for the file, unless that was done, and tell its version.

        Args:
            will_read: false takes nothing but headers off the connection.
        """
        while self._version is None:
            try:
                self._request(will_read=will_read)
            except _BROKEN as error:
                self._pause_or_fail(error)
        return self._version

    def readinto(self, buffer: Any, /) -> int:
        """Read what the connection gives, at most a buffer full; 0 at the end of the file."""
        while True:
            try:
                data = self._read_on(len(buffer))
            except _BROKEN as error:
                self._pause_or_fail(error)
                continue
            if data and self._takes_ranges:
                # Every attempt gains something, so their number is bounded by the file.
                self._num_failures = 0
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)

    def close(self) -> None:
        """End the connection."""
        self._drop_response()
        super().close()

    @property
    def _known_size(self) -> int | None:
        return self._version.size if self._version is not None else None

    def _read_on(self, size: int) -> bytes:
        if self._known_size is not None and self._position >= self._known_size:
            return b""
        way = self._position - self._response_position
        if self._response is None or way < 0 or (way > READ_THROUGH_BYTES and self._takes_ranges):
            self._request()
        while self._response_position < self._position:
            if not self._receive(min(FILL_BYTES, self._position - self._response_position)):
                raise EOFError("the connection ended before the place that was reached before")
        data = self._receive(size)
        if not data and self._known_size is not None:
            raise EOFError(f"the connection ended at byte {self._position} of {self._known_size}")
        return data

    def _receive(self, size: int) -> bytes:
        assert self._response is not None
        if not self._filled:
            if self._break is None:
                sync(self._file_system.loop, self._fill, self._response)
            if self._break is not None and not self._filled:
                raise self._break
        data = bytes(self._filled[:size])
        del self._filled[:size]
        self._response_position += len(data)
        return data

    async def _fill(self, response: aiohttp.ClientResponse) -> None:
        """Take what comes. Nobody else may wait with it: when a connection breaks, aiohttp gives away what it holds."""
        try:
            while len(self._filled) < FILL_BYTES and (data := await response.content.readany()):
                self._filled += data
        except _BROKEN as error:
            self._break = error

    def _request(self, *, will_read: bool = True) -> None:
        """Ask for the file from the present position on."""
        self._drop_response()
        response = sync(self._file_system.loop, self._get, self._build_headers(), will_read)
        try:
            self._judge(response)
        except BaseException:
            self._file_system.loop.call_soon_threadsafe(response.close)
            raise
        self._response = response

    def _build_headers(self) -> dict[str, str]:
        # From the first request on, to see whether the server takes ranges.
        headers = {"Range": f"bytes={self._position}-", "Accept-Encoding": "identity"}
        if self._position and self._version is not None and self._version.range_condition:
            headers["If-Range"] = self._version.range_condition
        return headers

    async def _get(self, headers: dict[str, str], will_read: bool) -> aiohttp.ClientResponse:
        session = await self._file_system.set_session()
        options: dict[str, Any] = dict(self._file_system.kwargs)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        # What is stored compressed, or sent so against our wish, is recognised by its content.
        options = {"timeout": timeout, **options, "auto_decompress": False}
        options["headers"] = {**options.get("headers", {}), **headers}
        response: aiohttp.ClientResponse = await session.get(self._file_system.encode_url(self._url), **options)
        if will_read:
            await self._fill(response)
        return response

    def _judge(self, response: aiohttp.ClientResponse) -> None:
        """Take an answer, or raise."""
        status = f"{response.status} {response.reason or ''}".strip()
        start, size = _parse_content_range(response.headers)
        if response.status in BUSY_STATUS:
            raise _BusyError(f"the server answered {status}", _parse_retry_after(response.headers))
        if response.status in MISSING_STATUS:
            raise UnreadableInputError("file_missing", f"the server answered {status}")
        if response.status == 416 and (size or self._position):
            raise UnreadableInputError(
                "file_changed", f"it ends before byte {self._position}, which was reached before"
            )
        if response.status == 206 and start != self._position:
            raise UnreadableInputError("file_unreadable", f"the server sent another part than byte {self._position}-")
        if response.status not in (200, 206, 416):
            raise UnreadableInputError("file_unreadable", f"the server answered {status}")
        if response.status == 200:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdigit() else None
        self._check_version(
            HttpVersion(
                size=0 if response.status == 416 and not self._position else size,
                entity_tag=response.headers.get("ETag", ""),
                modified=response.headers.get("Last-Modified", ""),
            )
        )
        self._takes_ranges = response.status == 206
        self._response_position = self._position if response.status == 206 else 0

    def _check_version(self, version: HttpVersion) -> None:
        if self._version is None:
            if self._version_name and version.name and version.name != self._version_name:
                detail = f"it is {version.name}, and was {self._version_name} when the inputs were listed"
                raise UnreadableInputError("file_changed", detail)
            self._version = version
        elif version.differs_from(self._version):
            detail = f"at byte {self._position} it is {version.describe()}, and was {self._version.describe()} before"
            raise UnreadableInputError("file_changed", detail)

    def _pause_or_fail(self, error: BaseException) -> None:
        """Wait before the next attempt.

        Raises:
            UnreadableInputError: there were enough of them, or no other would help.
        """
        self._drop_response()
        if isinstance(error, UnreadableInputError):
            raise error
        if isinstance(error, _HOPELESS):
            raise UnreadableInputError("file_unreadable", f"{type(error).__name__}: {error}") from error
        self._num_failures += 1
        pause = min(self._retry_seconds * 2 ** (self._num_failures - 1), MAX_PAUSE_SECONDS)
        if isinstance(error, _BusyError) and error.pause_seconds is not None:
            pause = error.pause_seconds
        if self._num_failures > self._max_retries or pause > MAX_RETRY_AFTER_SECONDS:
            reason = "connection_lost" if self._position else "file_unreadable"
            name = type(error).__name__.lstrip("_")
            detail = f"given up at byte {self._position} after {self._num_failures} attempts: {name}: {error}"
            raise UnreadableInputError(reason, detail) from error
        time.sleep(pause)

    def _drop_response(self) -> None:
        self._filled.clear()
        self._break = None
        if self._response is not None:
            self._file_system.loop.call_soon_threadsafe(self._response.close)
            self._response = None


def _parse_content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Parse the first byte and the total size of `bytes 5-9/20` or `bytes */20`."""
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit.lower() != "bytes":
        return None, None
    return int(start) if start.isdigit() else None, int(total) if total.isdigit() else None


def _parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse the seconds that the server asks to wait; it may give seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
