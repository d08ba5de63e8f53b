"""Inputs that list or contain other inputs: lists of paths, as published by Common Crawl, and WACZ archives."""

import glob
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import fsspec

from data_tools.config.schema import SourceConfig

LIST_ENDINGS = (".paths", ".paths.gz")
COMMON_CRAWL = "https://data.commoncrawl.org/"
"""Base URL of the paths in its lists."""
COMMON_CRAWL_FOLDERS = ("crawl-data/", "contrib/")
ARCHIVE_ENDINGS = (".warc", ".warc.gz", ".warc.zst")
CONTAINERS = {
    ".7z": ("7-Zip archives are not supported", "Unpack it (7z x FILE), or use the .bz2 of the same dump."),
    ".rar": ("RAR archives are not supported", "Unpack it."),
    ".zip": ("must not be a zip archive itself", "Name the files in it: zip://*.jsonl::FILE"),
    ".tar": ("must not be a tar archive itself", "Name the files in it: tar://*.jsonl::FILE"),
    ".tar.gz": ("compressed tar archives are not supported", "Unpack it (tar xf FILE)."),
    ".tgz": ("compressed tar archives are not supported", "Unpack it (tar xf FILE)."),
    ".tar.bz2": ("compressed tar archives are not supported", "Unpack it (tar xf FILE)."),
    ".tar.xz": ("compressed tar archives are not supported", "Unpack it (tar xf FILE)."),
    ".wacz": ("a WACZ contains web archives", "Use kind:warc."),
}
"""Extension of a container that is not an input itself -> problem and fix."""


class BadContainerError(Exception):
    """A list of paths or a WACZ yields no inputs; the message says why."""


def list_patterns(source: SourceConfig) -> Iterator[tuple[int, str]]:
    """Yield the source's paths, each with its index; a list of paths yields the paths in it.

    Raises:
        BadContainerError: a list cannot be read.
    """
    for place, pattern in enumerate(source.paths):
        for path in _find_lists(pattern):
            for line in _read_list(path, source.storage_options) if path.endswith(LIST_ENDINGS) else [path]:
                yield place, line


def _find_lists(pattern: str) -> list[str]:
    """Expand a local pattern if it matches lists of paths; return other patterns unchanged."""
    local = os.path.expanduser(pattern.removeprefix("file://"))
    if "://" in local or not glob.has_magic(local) or os.path.exists(local):
        return [pattern]
    found = sorted(path for path in glob.glob(local, recursive=True) if not os.path.isdir(path))
    return found if any(path.endswith(LIST_ENDINGS) for path in found) else [pattern]


def _read_list(path: str, options: dict[str, Any]) -> Iterator[str]:
    local = os.path.expanduser(path.removeprefix("file://"))
    try:
        with fsspec.open(local, "rb", compression="infer" if local.endswith(".gz") else None, **options) as stream:
            lines = stream.read().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        # Reported like any other missing input.
        yield path
        return
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        raise BadContainerError(f"cannot read the list of paths: {type(error).__name__}: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith("#"):
            yield _resolve_line(line, local)


def _resolve_line(line: str, listed_in: str) -> str:
    """Resolve a line of a list to a path or URL."""
    if "://" in line or os.path.isabs(line):
        return line
    if "://" in listed_in:
        return COMMON_CRAWL + line if line.startswith(COMMON_CRAWL_FOLDERS) else urljoin(listed_in, line)
    beside = Path(listed_in).parent / line
    if line.startswith(COMMON_CRAWL_FOLDERS) and not beside.exists():
        return COMMON_CRAWL + line
    return str(beside)


def list_archives(path: str, source: SourceConfig) -> list[tuple[str, int | None]] | None:
    """List URLs and sizes of the web archives in a WACZ or another zip; None for other files.

    Raises:
        BadContainerError: it cannot be read, or contains no web archive.
    """
    if source.kind != "warc" or not path.lower().endswith((".wacz", ".zip")) or "::" in path:
        return None
    try:
        file_system, _ = fsspec.core.url_to_fs(f"zip://::{path}", **source.storage_options)
        found = {name: info["size"] for name, info in file_system.find("", detail=True).items()}
    except (zipfile.BadZipFile, OSError) as error:
        raise BadContainerError(f"cannot read the zip archive: {error}") from error
    names = sorted(name for name in found if name.endswith(ARCHIVE_ENDINGS))
    if not names:
        raise BadContainerError(f"no web archive in it (*{', *'.join(ARCHIVE_ENDINGS)})")
    return [(f"zip://{name}::{path}", found[name]) for name in names]


def describe_container(path: str) -> tuple[str, str] | None:
    """Return problem and fix for a container that is not an input itself; None for inputs."""
    lowered = "" if "::" in path else path.lower()
    return next((found for ending, found in CONTAINERS.items() if lowered.endswith(ending)), None)
