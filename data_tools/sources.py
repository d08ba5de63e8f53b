"""Input files: which ones a configuration names, what identifies them, and how they are opened as streams."""

import glob
import gzip
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow

from data_tools.config import SourceConfig
from data_tools.expand_inputs import BadContainerError, describe_container, list_archives, list_patterns
from data_tools.folders import choose_in_folder, list_folder
from data_tools.joined_streams import JoinedStreams
from data_tools.parquet_schema import check_text_column
from data_tools.read_errors import UnreadableInputError
from trireme.errors import ConfigError, Violation

if TYPE_CHECKING:
    from data_tools.http_stream import HttpStream

MAGIC_BYTES = 10
_BZIP2_START = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""A stream with a block, or an empty one; a text may begin with BZh."""
LISTING_THREADS = 32
"""Files that web servers are asked for at a time; the 90,000 of a Common Crawl take some minutes so, and hours one
after the other."""
LISTING_RETRIES = 2
"""Further attempts to reach a web server while the inputs are listed: a mistyped address is told soon."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of a source, and what tells it from a later version of itself."""

    index: int
    """Place among all input files."""
    source: SourceConfig
    path: str
    """As the user wrote it, with patterns filled in."""
    bytes: int | None
    """Size; None when the server does not tell."""
    version: str
    """Modification time or entity tag; empty when the server does not tell."""

    def identity(self) -> dict[str, Any]:
        """What must be equal for the file to count as unchanged."""
        return {"source": self.source.name, "path": self.path, "bytes": self.bytes, "version": self.version}


class CountedStream(io.RawIOBase):
    """A stream that knows how much was read from it; closes the stream below."""

    def __init__(self, stream: Any, *, owner: Any = None) -> None:
        self._stream = stream
        self._owner = owner  # a zip is closed as soon as nobody holds it, with the files in it that are open
        self._peeked = b""
        self.bytes_read = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the stream below can seek; that of a web server that sends no parts of files cannot."""
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
        """The next size bytes, fewer at the end, which stay to be read; works where seeking does not."""
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


class _UnopenedStream(io.RawIOBase):
    """Stands for a file that cannot be opened: the first read tells, where the ledger counts it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Raise UnreadableInputError."""
        reason = "file_missing" if isinstance(self._error, FileNotFoundError) else "file_unreadable"
        raise UnreadableInputError(reason, f"{type(self._error).__name__}: {self._error}") from self._error


def open_input(file: InputFile) -> CountedStream:
    """Open an input file as it is stored, without reading it.

    A file that cannot be opened raises `UnreadableInputError` on the first read, as one does that ends too early.
    """
    try:
        if not is_remote(file.path):
            return CountedStream(open(local_path(file.path), "rb"))
        if is_http(file.path):
            return CountedStream(_open_http(file.path, file.source, version_name=file.version))
        file_system, path = fsspec.core.url_to_fs(file.path, **file.source.storage_options)
        return CountedStream(file_system.open(path, "rb"), owner=file_system)
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        return CountedStream(_UnopenedStream(error))


def _open_http(
    url: str, source: SourceConfig, *, version_name: str = "", max_retries: int | None = None
) -> "HttpStream":
    from data_tools.http_stream import HttpStream  # noqa: PLC0415 - aiohttp takes each process 0.3 s and 10 MB

    file_system, path = fsspec.core.url_to_fs(url, **source.storage_options)
    return HttpStream(
        path,
        file_system=file_system,
        max_retries=source.max_retries if max_retries is None else max_retries,
        retry_seconds=source.retry_seconds,
        version_name=version_name,
    )


class _SingleReads(io.RawIOBase):
    """Reads a decompressing stream in steps that each fail on their own: what came before damaged data is not lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Yes."""
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


def resolve_inputs(
    sources: Iterable[SourceConfig], *, name: str = "sources"
) -> tuple[list[InputFile], list[Violation]]:
    """List the files of all sources, in their order, without opening any.

    Args:
        name: of the field that holds the sources, for messages.
    Returns:
        The files, and every path that leads to none.
    """
    files: list[InputFile] = []
    violations: list[Violation] = []
    for number, source in enumerate(sources):
        known: set[str] = set()
        if not source.paths:
            fix = "name files, patterns or addresses"
            violations.append(Violation(path=f"{name}[{number}].paths", value="[]", rule="names no input", fix=fix))
        patterns = _list_patterns(source, violations, name=f"{name}[{number}].paths")
        for (place, pattern), found in zip(patterns, _find_all(patterns, source), strict=True):
            if isinstance(found, ConfigError):
                if source.skip_unreadable and not (glob.has_magic(pattern) and not is_http(pattern)):
                    files.append(InputFile(index=len(files), source=source, path=pattern, bytes=None, version=""))
                    continue
                for problem in found.violations:
                    where = f"{name}[{number}].paths[{place}]"
                    violations.append(Violation(path=where, value=pattern, rule=problem.rule, fix=problem.fix))
                continue
            if source.kind == "parquet":
                violations += _check_columns(found, source, name=f"{name}[{number}].text_field")
            for path, size, version in found:
                if path not in known:
                    known.add(path)
                    index = len(files)
                    files.append(InputFile(index=index, source=source, path=path, bytes=size, version=version))
    return files, violations


def _check_columns(found: list[tuple[str, int | None, str]], source: SourceConfig, *, name: str) -> Iterator[Violation]:
    """The first local file that has no column of the text; others are looked at when they are read."""
    checks = (check_text_column(local_path(path), source, name=name) for path, *_ in found if not is_remote(path))
    yield from (problem for problem in itertools.islice(filter(None, checks), 1))


def is_remote(path: str) -> bool:
    """Whether fsspec has to open it."""
    return "://" in path and not path.startswith("file://")


def is_http(path: str) -> bool:
    """Whether a web server has it."""
    return path.startswith(("http://", "https://"))


def local_path(path: str) -> Path:
    """The path that a local input stands for."""
    return Path(path.removeprefix("file://")).expanduser()


def _find_all(
    patterns: list[tuple[int, str]], source: SourceConfig
) -> Iterator[list[tuple[str, int | None, str]] | ConfigError]:
    """What `_find_files` gives for each pattern, or raises; web servers are asked for several files at a time."""

    def find(pattern: str) -> list[tuple[str, int | None, str]] | ConfigError:
        try:
            return _find_files(pattern, source=source)
        except ConfigError as error:
            return error

    addresses = [pattern for _, pattern in patterns if is_http(pattern)]
    if len(addresses) < 2:
        yield from (find(pattern) for _, pattern in patterns)
        return
    with ThreadPoolExecutor(min(LISTING_THREADS, len(addresses))) as pool:
        answers = pool.map(find, addresses)
        yield from (next(answers) if is_http(pattern) else find(pattern) for _, pattern in patterns)


def _find_files(pattern: str, *, source: SourceConfig) -> list[tuple[str, int | None, str]]:
    """Files that a pattern matches, each with size and version, sorted by path."""
    if is_http(pattern):
        found = [_find_http(pattern, source)]
    else:
        found = list(_find_remote(pattern, source) if is_remote(pattern) else _find_local(pattern, source))
    return [each for file in found for each in _open_container(file, source)]


def _list_patterns(source: SourceConfig, violations: list[Violation], *, name: str) -> list[tuple[int, str]]:
    """The paths of a source with their places; those of a list of paths in its place."""
    try:
        return list(list_patterns(source))
    except BadContainerError as error:
        violations.append(Violation(path=name, value=source.paths, rule=str(error), fix="name another file"))
        return []


def _open_container(file: tuple[str, int | None, str], source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    """A file, or the web archives in it."""
    path, _, version = file
    try:
        archives = list_archives(path, source)
    except BadContainerError as error:
        raise _unusable(str(error), "name WARC files, or a WACZ") from error
    if archives is not None:
        yield from ((address, size, version) for address, size in archives)
        return
    if (told := describe_container(path)) and not source.skip_unreadable:
        rule, fix = told
        raise _unusable(rule, fix.replace("FILE", path))
    yield file


def _find_http(url: str, source: SourceConfig) -> tuple[str, int | None, str]:
    try:
        with _open_http(url, source, max_retries=min(LISTING_RETRIES, source.max_retries)) as stream:
            version = stream.connect(will_read=False)
    except UnreadableInputError as error:
        if error.reason == "file_missing":
            raise _unusable("no such file on the server", "check the address") from error
        fix = "check the address and the network, set the source's storage_options, or skip_unreadable=true"
        raise _unusable(f"cannot be read: {error}", fix) from error
    return url, version.size, version.name


def _find_local(pattern: str, source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    expanded = os.path.expanduser(pattern.removeprefix("file://"))
    # A file whose own name holds brackets is found before the name is taken for a pattern.
    paths = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
    if len(paths) == 1 and os.path.isdir(paths[0]):
        paths = choose_in_folder(list_folder(paths[0]), folder=paths[0], kind=source.kind)
        if not paths:
            raise _unusable(f"is a folder without files of kind {source.kind}", f"name them: {pattern.rstrip('/')}/*")
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        rule = "matches no file" if glob.has_magic(expanded) else "no such file"
        raise _unusable(rule, f"check the path; it is taken from {os.getcwd()}")
    for path in paths:
        if not os.access(path, os.R_OK) and not source.skip_unreadable:
            raise _unusable(f"cannot be read: {path}", "check its permissions, or set skip_unreadable=true")
        status = os.stat(path)
        yield path, status.st_size, str(status.st_mtime_ns)


def _find_remote(pattern: str, source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    try:
        file_system, path = fsspec.core.url_to_fs(pattern, **source.storage_options)
        paths = sorted(file_system.glob(path)) if glob.has_magic(path) else [path]
        if paths == [path] and file_system.isdir(path):
            paths = choose_in_folder(file_system.find(path), folder=path, kind=source.kind)
        # What stands inside another file (zip://*.jsonl::a.zip) is opened through that one.
        inside = "".join(pattern.partition("::")[1:])
        found = [(file_system.unstrip_protocol(each) + inside, file_system.info(each)) for each in paths]
    except (ImportError, ValueError) as error:
        raise _unusable(
            f"cannot be opened: {error}", "install what fsspec needs for it, or copy the file here"
        ) from error
    except FileNotFoundError as error:
        raise _unusable("no such file on the server", "check the address") from error
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        reason = f"cannot be reached: {type(error).__name__}: {error}"
        raise _unusable(reason, "check the address and the network, or set the source's storage_options") from error
    if not found:
        raise _unusable("matches no file", "check the address")
    for url, info in found:
        version = next(
            (str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(key)), ""
        )
        yield url, info.get("size"), version


def _unusable(rule: str, fix: str) -> ConfigError:
    return ConfigError([Violation(path="", value="", rule=rule, fix=fix)])
