"""Which files of a folder are meant when a source names the folder."""

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
"""By kind of the source; of kind text all files are meant."""


def list_folder(folder: str) -> list[str]:
    """All files below a folder of this machine."""
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def choose_in_folder(paths: Iterable[str], *, folder: str, kind: str) -> list[str]:
    """Those of the files below a folder that a source of this kind reads, sorted; hidden ones are not meant."""
    endings = _ENDINGS.get(kind)
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") for part in os.path.relpath(path, folder).split(os.sep))
        and (strip_compression(path).endswith(endings) if endings else describe_container(path) is None)
    )


def strip_compression(path: str) -> str:
    """A file's name in small letters, without the ending of a compression."""
    path = path.lower()
    for ending in COMPRESSION_ENDINGS:
        path = path.removesuffix(ending)
    return path
