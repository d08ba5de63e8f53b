"""The list of a checkpoint's files with their sha256: what makes a directory a checkpoint, and damage visible."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trireme.cores import count_cores
from trireme.errors import ConfigError, Violation
from trireme.files import write_whole

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
_READ_BYTES = 4 << 20
_MAX_HASHING_THREADS = 8
_FIX = "use another checkpoint, or restore this one from a copy"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file must be."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One checkpoint's files, and its place among the run's checkpoints."""

    step: int
    serial: int
    """Counts the saves of a run directory. After a rollback the newest checkpoint need not have the highest step."""
    files: Mapping[str, FileRecord]
    validation_loss: float | None = None
    """Of the last validation at or before the step, by which retention keeps the best; None where there was none.

    A step is saved before it is validated: then this is None at first, and `note_validation_loss` adds it.
    """
    format_version: int = FORMAT_VERSION


def write_durably(path: Path, content: str | bytes) -> FileRecord:
    """Write a small file, text as UTF-8, and have the disk confirm it."""
    data = content.encode() if isinstance(content, str) else content
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a checkpoint; it carries its own checksum."""
    write_durably(directory / MANIFEST_NAME, _render(manifest))


def note_validation_loss(directory: Path, loss: float) -> None:
    """Have a checkpoint that is complete know the loss of its weights, which were saved before they were validated.

    Raises:
        ConfigError: its manifest is missing or damaged.
        OSError: nothing can be written there; the checkpoint stays as it was.
    """
    write_whole(directory / MANIFEST_NAME, _render(replace(read_manifest(directory), validation_loss=loss)))


def _render(manifest: Manifest) -> str:
    content = asdict(manifest)
    return json.dumps({**content, "sha256": _checksum(content)}, indent=1) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        ConfigError: it is missing, damaged, or of a newer format.
    """
    path = directory / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(content):
            raise ValueError("its content does not have the checksum that it states")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ConfigError([_newer_format(path, version)])
        files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
        return Manifest(**content, files=files)
    except FileNotFoundError:
        rule = "is missing, so the directory is not a complete checkpoint"
        raise ConfigError([Violation(path=str(path), value="missing", message=rule, fix=_FIX)]) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        rule = f"cannot be read: {error}"
        raise ConfigError([Violation(path=str(path), value="damaged", message=rule, fix=_FIX)]) from error


def check_files(
    directory: Path, manifest: Manifest, *, names: Collection[str] | None = None, verify_hashes: bool
) -> list[Violation]:
    """Compare files with the manifest.

    Args:
        directory: of the checkpoint.
        manifest: what must be there.
        names: files to look at; None looks at all of them.
        verify_hashes: read every byte, several files at a time; otherwise only sizes are compared.
    """
    chosen = sorted(manifest.files if names is None else names)
    if not verify_hashes:
        return [found for name in chosen if (found := _check_size(directory / name, manifest.files[name]))]
    with ThreadPoolExecutor(max_workers=min(_MAX_HASHING_THREADS, count_cores())) as pool:
        results = pool.map(lambda name: _check_content(directory / name, manifest.files[name]), chosen)
        return [found for found in results if found]


def _check_size(path: Path, record: FileRecord) -> Violation | None:
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        return Violation(path=str(path), value="missing", message=f"cannot be read: {error.strerror}", fix=_FIX)
    if num_bytes == record.num_bytes:
        return None
    state = "truncated" if num_bytes < record.num_bytes else "too long"
    rule = f"is {state}: {num_bytes} bytes instead of {record.num_bytes}"
    return Violation(path=str(path), value="damaged", message=rule, fix=_FIX)


def _check_content(path: Path, record: FileRecord) -> Violation | None:
    if found := _check_size(path, record):
        return found
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        return Violation(path=str(path), value="unreadable", message=f"cannot be read: {error.strerror}", fix=_FIX)
    if digest.hexdigest() == record.sha256:
        return None
    rule = f"has changed since it was written: sha256 {digest.hexdigest()[:12]}... instead of {record.sha256[:12]}..."
    return Violation(path=str(path), value="damaged", message=rule, fix=_FIX)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _newer_format(path: Path, version: Any) -> Violation:
    rule = f"is a checkpoint format that this version cannot read (it reads {FORMAT_VERSION})"
    return Violation(path=str(path), value=f"format {version}", message=rule, fix="use the version that wrote it")
