"""Select the files of a folder that a source names."""

import os
from collections.abc import Iterable

from data_tools.inputs.expand import describe_container

COMPRESSION_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
_ENDINGS: dict[str, tuple[str, ...]] = {
    "warc": (".warc", ".wet", ".arc", ".wacz"),
    "wikipedia": (".xml",),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
}
"""Extensions by kind of source; kind text selects all files."""


def list_folder(folder: str) -> list[str]:
    """List all files below a local folder."""
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def select_in_folder(paths: Iterable[str], *, folder: str, kind: str) -> list[str]:
    """Select the files below a folder that a source of this kind reads, sorted; hidden files are skipped."""
    endings = _ENDINGS.get(kind)
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") for part in os.path.relpath(path, folder).split(os.sep))
        and (strip_compression(path).endswith(endings) if endings else describe_container(path) is None)
    )


def strip_compression(path: str) -> str:
    """Return a file's name in lower case, without the extension of a compression."""
    path = path.lower()
    for ending in COMPRESSION_ENDINGS:
        path = path.removesuffix(ending)
    return path
