"""Write, read and check a checkpoint's manifest: its files with their sha256; it marks the checkpoint as complete."""

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
from trireme.progress import format_number

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
_READ_BYTES = 4 << 20
_MAX_HASHING_THREADS = 8
_FIX = "Use another checkpoint, or restore this one from a copy."


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Hold the size and hash that a file must have."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hold a checkpoint's files and its place among the run's checkpoints."""

    step: int
    serial: int
    """Number of the save in the run directory; after a rollback, the latest save need not have the highest step."""
    files: Mapping[str, FileRecord]
    validation_loss: float | None = None
    """Of the last validation at or before the step; retention keeps the best. None if there was none.

    A step is saved before it is validated: this is None at first, and `note_validation` adds it.
    """
    validation_score: float | None = None
    """Of the same validation, where finetune.metric is a score: then retention keeps the highest of these."""
    validation_basis: str | None = None
    """Of the same validation, see `TrainProgress`: retention compares those alone that share that of the latest."""
    is_evaluated: bool = False
    """Whether the evaluation suite has been run on these weights, which happens after the save."""
    format_version: int = FORMAT_VERSION


def write_durably(path: Path, content: str | bytes) -> FileRecord:
    """Write a small file, text as UTF-8, and flush it to the disk."""
    data = content.encode() if isinstance(content, str) else content
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a checkpoint, with a checksum of itself."""
    write_durably(directory / MANIFEST_NAME, _render(manifest))


def note_validation(directory: Path, *, loss: float, score: float | None, basis: str | None) -> None:
    """Add the result of a validation to a complete checkpoint, which was saved before its weights were validated.

    Raises:
        ConfigError: its manifest is missing or damaged.
        OSError: it cannot be written; the checkpoint stays as it was.
    """
    manifest = replace(read_manifest(directory), validation_loss=loss, validation_score=score, validation_basis=basis)
    write_whole(directory / MANIFEST_NAME, _render(manifest))


def note_evaluation(directory: Path) -> None:
    """Note in a complete checkpoint that the evaluation suite has been run on its weights.

    Raises:
        ConfigError: its manifest is missing or damaged.
        OSError: it cannot be written; the checkpoint stays as it was.
    """
    write_whole(directory / MANIFEST_NAME, _render(replace(read_manifest(directory), is_evaluated=True)))


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
            raise ValueError("its content does not match its checksum")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ConfigError([_newer_format(path, version)])
        files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
        return Manifest(**content, files=files)
    except FileNotFoundError:
        message = "is missing, so the directory is not a complete checkpoint"
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=_FIX)]) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"is damaged: {error}"
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=_FIX)]) from error


def check_files(
    directory: Path, manifest: Manifest, *, names: Collection[str] | None = None, verify_hashes: bool
) -> list[Violation]:
    """Compare files with the manifest.

    Args:
        directory: of the checkpoint.
        manifest: the expected files.
        names: files to check; None checks all of them.
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
        return Violation(path=str(path), value="", message=f"cannot be read: {error.strerror}", fix=_FIX)
    if num_bytes == record.num_bytes:
        return None
    state = "truncated" if num_bytes < record.num_bytes else "too long"
    message = f"is {state}: the manifest records {record.num_bytes} bytes"
    return Violation(path=str(path), value=format_number(num_bytes, "byte"), message=message, fix=_FIX)


def _check_content(path: Path, record: FileRecord) -> Violation | None:
    if found := _check_size(path, record):
        return found
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        return Violation(path=str(path), value="", message=f"cannot be read: {error.strerror}", fix=_FIX)
    if digest.hexdigest() == record.sha256:
        return None
    message = f"is damaged: the manifest records sha256 {record.sha256[:12]}..."
    return Violation(path=str(path), value=f"{digest.hexdigest()[:12]}...", message=message, fix=_FIX)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _newer_format(path: Path, version: Any) -> Violation:
    message = f"has a format that this version cannot read; it reads format {FORMAT_VERSION}"
    fix = "Use the version of Trireme that wrote it."
    return Violation(path=str(path), value=f"format {version}", message=message, fix=fix)
