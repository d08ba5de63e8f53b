"""Publish a preparation's output all at once, and recognize a finished one.

Everything is built in OUTPUT_DIR/.preparing/built, and then exchanged (`data_tools.output.exchange`), preparation.json
last.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from data_tools.config.schema import SOURCE_FIELDS_WITHOUT_EFFECT, DataPrepConfig
from data_tools.inputs.files import InputFile
from data_tools.output.exchange import BUILT_NAME, finish_exchange, is_decided, list_exchange
from data_tools.output.tables import RECORD_TABLE_NAME
from data_tools.tokenizer.files import TOKENIZER_NAMES, describe_tokenizer
from data_tools.work.progress import TIMINGS_NAME
from trireme.errors import ConfigError, Violation
from trireme.files import write_whole
from trireme.shards.manifest import MANIFEST_SUFFIX, hash_file

WORK_NAME = ".preparing"
REPORT_NAME = "report.html"
"""The report is not part of the output: equal preparations may have different reports."""
RECORD_NAME = "preparation.json"
RECORD_VERSION = 1
METHOD_VERSION = 2
"""Incremented when equal input and settings no longer give equal output."""

WITHOUT_EFFECT = ("output_dir", "batch_bytes", "num_workers", "executor", "strict", "overwrite", "progress")
"""Settings that do not change the output."""
_RENAMED_SETTINGS = {"further_steps": "custom_filters"}
"""Settings of earlier versions in preparation.json -> their name now."""


def describe_preparation(
    config: DataPrepConfig, files: list[InputFile], *, evaluation_files: list[InputFile]
) -> dict[str, Any]:
    """Describe everything that determines the output."""
    settings = {name: value for name, value in asdict(config).items() if name not in WITHOUT_EFFECT}
    for source in settings["sources"] + settings["evaluations"]:
        for name in SOURCE_FIELDS_WITHOUT_EFFECT:
            del source[name]
    # The content of the lists matters, not their path.
    settings["url_filter"]["block_lists"] = [hash_file(path) for path in config.url_filter.block_lists]
    if config.language.model_path is not None:
        settings["language"]["model_path"] = hash_file(config.language.model_path)
    if config.tokenizer.path is not None:
        settings["tokenizer"] = describe_tokenizer(config.tokenizer)
    return {
        "method": METHOD_VERSION,
        "settings": settings,
        "inputs": [file.identity() for file in files],
        "evaluations": [file.identity() for file in evaluation_files],
    }


def created_by() -> str:
    """Return program and version, for manifests."""
    return f"data_tools.prepare {metadata.version('trireme')}"


@contextmanager
def exclusive_lock(output: Path, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Lock a directory against other preparations while the block runs; a killed process leaves no lock.

    Args:
        patience_seconds: how long to wait for another preparation to end.
    Raises:
        ConfigError: another preparation is running there.
    """
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_seconds
    descriptor = os.open(output, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    message = "another preparation is writing to this directory"
                    fix = "Wait for it to finish, or choose another directory."
                    raise ConfigError([_output_violation(output, message, fix)]) from None
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def find_finished(output: Path, description: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the directory holds this preparation, finished.

    Raises:
        ConfigError: the directory holds another preparation, or other files that would be replaced, and overwrite is
            false.
    """
    if is_decided(output / WORK_NAME):
        publish(output)
    record = _read_record(output)
    if record is None:
        taken = [name for name in _final_names() if (output / name).exists()]
        if taken and not overwrite:
            message = f"the directory contains {', '.join(taken)}, but no finished preparation"
            raise ConfigError([_output_violation(output, message, _OVERWRITE_FIX)])
        return False
    if record["description"] == json.loads(json.dumps(description)):
        # A file that is missing or has another size is written again, with the same content.
        return all(_has_size(output / name, entry["bytes"]) for name, entry in record["files"].items())
    if not overwrite:
        changed = ", ".join(_differences(record["description"], description))
        message = f"the directory contains a preparation with other inputs or settings ({changed})"
        raise ConfigError([_output_violation(output, message, _OVERWRITE_FIX)])
    return False


def record_files(output: Path, description: dict[str, Any], *, on_bytes: Callable[[int], object]) -> None:
    """Write the record of the built files, and the list by which `publish` gives them their final names.

    Args:
        on_bytes: receives the number of bytes that have been hashed.
    """
    work = output / WORK_NAME
    files = {path.name: path for path in sorted((work / BUILT_NAME).iterdir())}
    entries: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        entries[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        on_bytes(sum(entry["bytes"] for entry in entries.values()))
    record = {
        "version": RECORD_VERSION,
        "created_by": created_by(),
        "files": entries,
        "description": description,
    }
    write_json(work / BUILT_NAME / RECORD_NAME, record)
    # Earlier marks of completeness are removed first: a mixture of old and new files never counts as complete.
    former = (_read_record(output) or {}).get("files", {})
    marks = [RECORD_NAME, *(name for name in _final_names() if name.endswith((MANIFEST_SUFFIX, ".idx")))]
    remove = [*marks, *former, REPORT_NAME, TIMINGS_NAME]
    list_exchange(work, remove=remove, publish=sorted([*files, RECORD_NAME], key=_publishing_order))


def publish(output: Path) -> None:
    """Give all files on the list their final names; an interrupted publication is resumed."""
    work = output / WORK_NAME
    finish_exchange(work, output)
    shutil.rmtree(work)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file durably, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _publishing_order(name: str) -> int:
    """Order data before indices, manifests and the record."""
    if name == RECORD_NAME:
        return 3
    return 2 if name.endswith(MANIFEST_SUFFIX) else 1 if name.endswith(".idx") else 0


def _final_names() -> list[str]:
    shards = [f"{split}{suffix}" for split in ("train", "validation") for suffix in (".bin", ".idx", MANIFEST_SUFFIX)]
    return [*shards, *TOKENIZER_NAMES, "ledger.json", RECORD_TABLE_NAME, "stats.json"]


def _read_record(output: Path) -> dict[str, Any] | None:
    path = output / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        fix = "Remove the file, or choose another data_prep.output_dir."
        raise ConfigError(
            [Violation(path=str(path), value="", message=f"cannot read the file: {error}", fix=fix)]
        ) from error
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION:
        fix = "Remove the file and set data_prep.overwrite=true, or choose another data_prep.output_dir."
        raise ConfigError([Violation(path=str(path), value="", message="written by an incompatible version", fix=fix)])
    settings = record["description"].get("settings", {})
    for old, new in _RENAMED_SETTINGS.items():
        if old in settings:
            settings[new] = settings.pop(old)
    return record


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the paths of the first values that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found[:3]
    return [] if old == new else [path.removeprefix("settings.")]


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


_OVERWRITE_FIX = "Choose another directory, or set data_prep.overwrite=true to replace it."


def _output_violation(output: Path, message: str, fix: str) -> Violation:
    return Violation(path="data_prep.output_dir", value=output, message=message, fix=fix)
