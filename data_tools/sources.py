"""Input files: which ones a configuration names, what identifies them, and how they are opened as streams."""

import glob
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow

from data_tools.config import SourceConfig
from data_tools.joined_streams import JoinedStreams
from trainer.common.errors import ConfigError, Violation

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowInvalid)
"""What reading a damaged or truncated stream raises; fsspec's file systems raise OSError."""

MAGIC_BYTES = 6


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

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.bytes_read = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the stream below can seek; a plain HTTP stream cannot."""
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move in the stream below."""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Place in the stream below."""
        return int(self._stream.tell())

    def read(self, size: int = -1, /) -> bytes:
        """Read at most size bytes."""
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


def open_input(file: InputFile) -> CountedStream:
    """Open an input file as it is stored, without reading it."""
    if not is_remote(file.path):
        return CountedStream(open(local_path(file.path), "rb"))
    return CountedStream(fsspec.open(file.path, "rb", **file.source.storage_options).open())


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
    buffered: io.BufferedReader = io.BufferedReader(stream, 1 << 20)
    magic = buffered.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    if magic.startswith(b"\x1f\x8b"):
        return io.BufferedReader(_SingleReads(gzip.GzipFile(fileobj=buffered)), 1 << 20)
    if magic.startswith(b"BZh"):
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
        for place, pattern in enumerate(source.paths):
            try:
                found = _find_files(pattern, source=source)
            except ConfigError as error:
                for problem in error.violations:
                    where = f"{name}[{number}].paths[{place}]"
                    violations.append(Violation(path=where, value=pattern, rule=problem.rule, fix=problem.fix))
                continue
            for path, size, version in found:
                if path not in known:
                    known.add(path)
                    index = len(files)
                    files.append(InputFile(index=index, source=source, path=path, bytes=size, version=version))
    return files, violations


def is_remote(path: str) -> bool:
    """Whether fsspec has to open it."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> Path:
    """The path that a local input stands for."""
    return Path(path.removeprefix("file://")).expanduser()


def _find_files(pattern: str, *, source: SourceConfig) -> list[tuple[str, int | None, str]]:
    """Files that a pattern matches, each with size and version, sorted by path."""
    return list(_find_remote(pattern, source) if is_remote(pattern) else _find_local(pattern))


def _find_local(pattern: str) -> Iterator[tuple[str, int | None, str]]:
    expanded = os.path.expanduser(pattern.removeprefix("file://"))
    # A file whose own name holds brackets is found before the name is taken for a pattern.
    paths = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
    if len(paths) == 1 and os.path.isdir(paths[0]):
        raise _unusable("is a directory", f"name the files in it: {pattern.rstrip('/')}/*")
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        rule = "matches no file" if glob.has_magic(expanded) else "no such file"
        raise _unusable(rule, f"check the path; it is taken from {os.getcwd()}")
    for path in paths:
        if not os.access(path, os.R_OK):
            raise _unusable(f"cannot be read: {path}", "check its permissions")
        status = os.stat(path)
        yield path, status.st_size, str(status.st_mtime_ns)


def _find_remote(pattern: str, source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    protocol = pattern.partition("://")[0]
    try:
        file_system, path = fsspec.core.url_to_fs(pattern, **source.storage_options)
        # The characters of a pattern are ordinary ones in an http address.
        is_pattern = glob.has_magic(path) and not protocol.startswith("http")
        paths = sorted(file_system.glob(path)) if is_pattern else [path]
        found = [(file_system.unstrip_protocol(each), file_system.info(each)) for each in paths]
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
