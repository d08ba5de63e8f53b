"""Inputs that name or hold other inputs: lists of paths, as Common Crawl has them, and WACZ, a zip with archives."""

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
"""What the paths in its lists are relative to."""
COMMON_CRAWL_FOLDERS = ("crawl-data/", "contrib/")
ARCHIVE_ENDINGS = (".warc", ".warc.gz", ".warc.zst")
CONTAINERS = {
    ".7z": ("is a 7-Zip archive, which cannot be read", "unpack it (7z x FILE), or take the .bz2 of the same dump"),
    ".rar": ("is a RAR archive, which cannot be read", "unpack it"),
    ".zip": ("is a zip archive", "name the files in it: zip://*.jsonl::FILE"),
    ".tar": ("is a tar archive", "name the files in it: tar://*.jsonl::FILE"),
    ".tar.gz": ("is a tar archive", "unpack it (tar xf FILE)"),
    ".tgz": ("is a tar archive", "unpack it (tar xf FILE)"),
    ".tar.bz2": ("is a tar archive", "unpack it (tar xf FILE)"),
    ".tar.xz": ("is a tar archive", "unpack it (tar xf FILE)"),
    ".wacz": ("is a WACZ, which holds web archives", "use kind:warc"),
}
"""Ending of a file that is no input -> what it is, and what to do."""


class BadContainerError(Exception):
    """A list of paths or a WACZ that gives no inputs; its message says why."""


def list_patterns(source: SourceConfig) -> Iterator[tuple[int, str]]:
    """Yield the source's paths, each with its place among them; a list of paths gives those that stand in it.

    Raises:
        BadContainerError: a list cannot be read.
    """
    for place, pattern in enumerate(source.paths):
        for path in _find_lists(pattern):
            for line in _read_list(path, source.storage_options) if path.endswith(LIST_ENDINGS) else [path]:
                yield place, line


def _find_lists(pattern: str) -> list[str]:
    """The files that a local pattern matches, if there are lists among them; everything else is left as it is."""
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
        # Told as any other missing input is.
        yield path
        return
    except Exception as error:  # each of fsspec's file systems has its own kinds of errors
        raise BadContainerError(f"is no list of paths: {type(error).__name__}: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith("#"):
            yield _place_beside(line, local)


def _place_beside(line: str, listed_in: str) -> str:
    """What a line of a list stands for."""
    if "://" in line or os.path.isabs(line):
        return line
    if "://" in listed_in:
        return COMMON_CRAWL + line if line.startswith(COMMON_CRAWL_FOLDERS) else urljoin(listed_in, line)
    beside = Path(listed_in).parent / line
    if line.startswith(COMMON_CRAWL_FOLDERS) and not beside.exists():
        return COMMON_CRAWL + line
    return str(beside)


def list_archives(path: str, source: SourceConfig) -> list[tuple[str, int | None]] | None:
    """Addresses and sizes of the web archives in a WACZ or another zip of them; None for what is none.

    Raises:
        BadContainerError: nothing can be read out of it.
    """
    if source.kind != "warc" or not path.lower().endswith((".wacz", ".zip")) or "::" in path:
        return None
    try:
        file_system, _ = fsspec.core.url_to_fs(f"zip://::{path}", **source.storage_options)
        found = {name: info["size"] for name, info in file_system.find("", detail=True).items()}
    except (zipfile.BadZipFile, OSError) as error:
        raise BadContainerError(f"is no zip with web archives: {error}") from error
    names = sorted(name for name in found if name.endswith(ARCHIVE_ENDINGS))
    if not names:
        raise BadContainerError(f"holds no web archive (*{', *'.join(ARCHIVE_ENDINGS)})")
    return [(f"zip://{name}::{path}", found[name]) for name in names]


def describe_container(path: str) -> tuple[str, str] | None:
    """What a file is that holds files and is no input, and what to do; None for inputs."""
    lowered = "" if "::" in path else path.lower()
    return next((told for ending, told in CONTAINERS.items() if lowered.endswith(ending)), None)
