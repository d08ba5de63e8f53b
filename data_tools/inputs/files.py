"""Input files: list those of a configuration, identify them, and open them as streams."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from data_tools.config.schema import SourceConfig
from data_tools.errors import UnreadableInputError
from data_tools.inputs.expand import BadContainerError, describe_container, list_archives, list_patterns
from data_tools.inputs.folders import list_folder, select_in_folder, strip_compression
from data_tools.inputs.parquet_columns import check_text_column
from data_tools.inputs.streams import CountedStream, UnopenedStream
from trireme.errors import ConfigError, Violation

if TYPE_CHECKING:
    from data_tools.inputs.http import HttpStream

LISTING_THREADS = 32
"""Concurrent requests while listing; the 90,000 files of a Common Crawl take some minutes, and hours one by one."""
LISTING_RETRIES = 2
"""Retries while listing, few so that a mistyped URL is reported soon."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file of a source, with its version."""

    index: int
    """Index among all input files."""
    source: SourceConfig
    path: str
    """As configured, with patterns expanded."""
    bytes: int | None
    """Size; None if the server does not report it."""
    version: str
    """Modification time or entity tag; empty if the server does not report it."""

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for the file to count as unchanged."""
        return {"source": self.source.name, "path": self.path, "bytes": self.bytes, "version": self.version}


def open_input(file: InputFile) -> CountedStream:
    """Open an input file as stored, without reading it.

    A file that cannot be opened raises `UnreadableInputError` on the first read, like one that ends too early.
    """
    try:
        if not is_remote(file.path):
            return CountedStream(open(local_path(file.path), "rb"))
        if is_http(file.path):
            return CountedStream(_open_http(file.path, file.source, version_name=file.version))
        file_system, path = fsspec.core.url_to_fs(file.path, **file.source.storage_options)
        return CountedStream(file_system.open(path, "rb"), owner=file_system)
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        return CountedStream(UnopenedStream(error))


def _open_http(
    url: str, source: SourceConfig, *, version_name: str = "", max_retries: int | None = None
) -> "HttpStream":
    from data_tools.inputs.http import HttpStream  # noqa: PLC0415 - aiohttp takes each process 0.3 s and 10 MB

    file_system, path = fsspec.core.url_to_fs(url, **source.storage_options)
    return HttpStream(
        path,
        file_system=file_system,
        max_retries=source.max_retries if max_retries is None else max_retries,
        retry_seconds=source.retry_seconds,
        version_name=version_name,
    )


def resolve_inputs(
    sources: Iterable[SourceConfig], *, name: str = "sources"
) -> tuple[list[InputFile], list[Violation]]:
    """List the files of all sources, in order, without opening any.

    Args:
        name: of the field with the sources, for messages.
    Returns:
        The files, and a violation for every path without a usable file.
    """
    files: list[InputFile] = []
    violations: list[Violation] = []
    for number, source in enumerate(sources):
        known: set[str] = set()
        if not source.paths:
            fix = "List files, patterns or URLs."
            violations.append(Violation(path=f"{name}[{number}].paths", value="", message="no input listed", fix=fix))
        patterns = _list_patterns(source, violations, name=f"{name}[{number}].paths")
        for (place, pattern), found in zip(patterns, _find_all(patterns, source), strict=True):
            if isinstance(found, ConfigError):
                if source.skip_unreadable and not (glob.has_magic(pattern) and not is_http(pattern)):
                    files.append(InputFile(index=len(files), source=source, path=pattern, bytes=None, version=""))
                    continue
                for problem in found.violations:
                    where = f"{name}[{number}].paths[{place}]"
                    violations.append(Violation(path=where, value=pattern, message=problem.message, fix=problem.fix))
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
    """Report the first local file without the text column; remote files are checked when they are read."""
    checks = (check_text_column(local_path(path), source, name=name) for path, *_ in found if not is_remote(path))
    yield from (problem for problem in itertools.islice(filter(None, checks), 1))


def is_remote(path: str) -> bool:
    """Return whether fsspec has to open a path."""
    return "://" in path and not path.startswith("file://")


def is_http(path: str) -> bool:
    """Return whether a path is a URL of a web server."""
    return path.startswith(("http://", "https://"))


def local_path(path: str) -> Path:
    """Return the path of a local input."""
    return Path(path.removeprefix("file://")).expanduser()


def _find_all(
    patterns: list[tuple[int, str]], source: SourceConfig
) -> Iterator[list[tuple[str, int | None, str]] | ConfigError]:
    """Yield the files of each pattern, or the error; web servers receive several requests at a time."""

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
    """List the files that a pattern matches, each with size and version, sorted by path."""
    if is_http(pattern):
        found = [_find_http(pattern, source)]
    else:
        found = list(_find_remote(pattern, source) if is_remote(pattern) else _find_local(pattern, source))
    return [each for file in found for each in _open_container(file, source)]


def _list_patterns(source: SourceConfig, violations: list[Violation], *, name: str) -> list[tuple[int, str]]:
    """List the paths of a source with their indices, lists of paths expanded."""
    try:
        return list(list_patterns(source))
    except BadContainerError as error:
        violations.append(Violation(path=name, value=source.paths, message=str(error), fix="Use another file."))
        return []


def _open_container(file: tuple[str, int | None, str], source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    """Yield a file, or the web archives in it."""
    path, _, version = file
    try:
        archives = list_archives(path, source)
    except BadContainerError as error:
        raise _unusable(str(error), "Use WARC files, or a WACZ.") from error
    if archives is not None:
        yield from ((address, size, version) for address, size in archives)
        return
    if (found := describe_container(path)) and not source.skip_unreadable:
        rule, fix = found
        raise _unusable(rule, fix.replace("FILE", path))
    yield file


def _find_http(url: str, source: SourceConfig) -> tuple[str, int | None, str]:
    try:
        with _open_http(url, source, max_retries=min(LISTING_RETRIES, source.max_retries)) as stream:
            version = stream.connect(will_read=False)
    except UnreadableInputError as error:
        if error.reason == "file_missing":
            raise _unusable("no such file on the server", "Check the URL.") from error
        fix = "Check the URL and the network, or set the source's storage_options or skip_unreadable=true."
        raise _unusable(f"cannot read the file: {error}", fix) from error
    return url, version.size, version.name


def _find_local(pattern: str, source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    expanded = os.path.expanduser(pattern.removeprefix("file://"))
    # A file whose name contains brackets takes precedence over the name as a pattern.
    paths = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
    if len(paths) == 1 and os.path.isdir(paths[0]):
        paths = select_in_folder(list_folder(paths[0]), folder=paths[0], kind=source.kind)
        if not paths:
            raise _unusable(
                f"no files of kind {source.kind} in this folder", f"List them explicitly: {pattern.rstrip('/')}/*"
            )
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        rule = "no file matches" if glob.has_magic(expanded) else "no such file"
        raise _unusable(rule, f"Check the path; relative paths start at {os.getcwd()}.")
    for path in paths:
        if not os.access(path, os.R_OK) and not source.skip_unreadable:
            raise _unusable(f"no permission to read {path}", "Check its permissions, or set skip_unreadable=true.")
        status = os.stat(path)
        yield path, status.st_size, str(status.st_mtime_ns)


def _find_remote(pattern: str, source: SourceConfig) -> Iterator[tuple[str, int | None, str]]:
    try:
        file_system, path = fsspec.core.url_to_fs(pattern, **source.storage_options)
        paths = sorted(file_system.glob(path)) if glob.has_magic(path) else [path]
        if paths == [path] and file_system.isdir(path):
            paths = select_in_folder(file_system.find(path), folder=path, kind=source.kind)
        # A file inside another one (zip://*.jsonl::a.zip) is opened through it.
        inside = "".join(pattern.partition("::")[1:])
        found = [(file_system.unstrip_protocol(each) + inside, file_system.info(each)) for each in paths]
    except (ImportError, ValueError) as error:
        raise _unusable(
            f"cannot open the file: {error}", "Install what fsspec requires for it, or copy the file here."
        ) from error
    except FileNotFoundError as error:
        raise _unusable("no such file on the server", "Check the URL.") from error
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        reason = f"cannot reach the server: {type(error).__name__}: {error}"
        raise _unusable(reason, "Check the URL and the network, or set the source's storage_options.") from error
    if not found:
        raise _unusable("no file matches", "Check the URL.")
    for url, info in found:
        version = next(
            (str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(key)), ""
        )
        yield url, info.get("size"), version


def _unusable(rule: str, fix: str) -> ConfigError:
    return ConfigError([Violation(path="", value="", message=rule, fix=fix)])


CODE_ENDINGS = frozenset((
    "bash", "bat", "c", "cc", "clj", "cpp", "cs", "css", "cu", "cxx", "diff", "el", "erl", "ex", "f90", "go",
    "h", "hpp", "hs", "java", "jl", "js", "jsx", "kt", "lisp", "lua", "m", "md", "mk", "ml", "patch", "php",
    "pl", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "scala", "scm", "sh", "sql", "swift", "tex", "toml", "ts",
    "tsx", "v", "vhd", "vim", "yaml", "yml", "zig",
))  # fmt: skip
"""Extensions of source code and Markdown, in which whitespace is significant."""


def keeps_whitespace(file: InputFile) -> bool:
    """Return whether the whitespace of a file's texts is preserved."""
    if file.source.keep_whitespace is not None:
        return file.source.keep_whitespace
    return file.source.kind == "text" and find_ending(file) in CODE_ENDINGS


def find_ending(file: InputFile) -> str:
    """Return the extension of a file, that of a compression removed."""
    return strip_compression(file.path).rpartition(".")[2]
