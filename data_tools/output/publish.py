"""A preparation's output: recognised when it is finished, and published all at once.

Everything is built in OUTPUT_DIR/.preparing/built. When all of it is there, a list of its files is written beside it;
then the files get their final names, and preparation.json last. Whoever finds such a list finishes the renaming.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from data_tools.config.schema import SOURCE_FIELDS_WITHOUT_EFFECT, DataPrepConfig
from data_tools.inputs.files import InputFile
from data_tools.output.tables import RECORD_TABLE_NAME
from data_tools.tokenizer.files import TOKENIZER_NAMES, describe_tokenizer
from data_tools.work.progress import TIMINGS_NAME
from trireme.errors import ConfigError, Violation
from trireme.files import sync_directory, write_whole
from trireme.shards.manifest import MANIFEST_SUFFIX, hash_file

REPORT_NAME = "report.html"
"""Of the page that shows them, among everything else; it is no part of the output either."""

RECORD_NAME = "preparation.json"
FILE_LIST_NAME = "files.json"
RECORD_VERSION = 1
METHOD_VERSION = 2
"""Raised when equal input and settings no longer give equal output."""

WITHOUT_EFFECT = ("output_dir", "batch_bytes", "num_workers", "executor", "strict", "overwrite", "progress")
"""Settings that do not change what is written."""


def describe_preparation(
    config: DataPrepConfig, files: list[InputFile], *, evaluation_files: list[InputFile]
) -> dict[str, Any]:
    """Everything that decides about the output."""
    settings = {name: value for name, value in asdict(config).items() if name not in WITHOUT_EFFECT}
    for source in settings["sources"] + settings["evaluations"]:
        for name in SOURCE_FIELDS_WITHOUT_EFFECT:
            del source[name]
    # What the lists say decides, not where they lie.
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
    """Program and version, for manifests."""
    return f"data_tools.prepare {metadata.version('trireme')}"


@contextmanager
def exclusive_lock(output: Path, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Keep a second preparation out of a directory while the block runs; a killed one leaves no lock.

    Args:
        patience_seconds: how long to wait for another one to leave.
    Raises:
        ConfigError: another one is under way there.
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
                    rule, fix = "is being written by another preparation", "wait for it, or choose another directory"
                    raise ConfigError([_output_violation(output, rule, fix)]) from None
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def find_finished(output: Path, description: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether this very preparation is finished in the directory.

    Raises:
        ConfigError: the directory holds another one, or foreign files that would be replaced, and overwrite is false.
    """
    if (output / WORK_NAME / FILE_LIST_NAME).exists():
        publish(output)
    record = _read_record(output)
    if record is None:
        taken = [name for name in _final_names() if (output / name).exists()]
        if taken and not overwrite:
            rule = f"holds {', '.join(taken)}, which no finished preparation wrote"
            raise ConfigError([_output_violation(output, rule, _refuse_fix())])
        return False
    if record["description"] == json.loads(json.dumps(description)):
        # A file that is missing or has another size is made again: it will be the same as it was.
        return all(_has_size(output / name, entry["bytes"]) for name, entry in record["files"].items())
    if not overwrite:
        changed = ", ".join(_differences(record["description"], description))
        rule = f"holds a preparation of other inputs or settings ({changed})"
        raise ConfigError([_output_violation(output, rule, _refuse_fix())])
    return False


def finish_work(output: Path, description: dict[str, Any]) -> None:
    """Publish what was built in place of what was there; the record, which lists all of it, comes last."""
    work = output / WORK_NAME
    files = {path.name: path for path in sorted((work / BUILT_NAME).iterdir())}
    record = {
        "version": RECORD_VERSION,
        "created_by": created_by(),
        "files": {name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for name, path in files.items()},
        "description": description,
    }
    write_json(work / BUILT_NAME / RECORD_NAME, record)
    for path in files.values():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(work / BUILT_NAME)
    # Former marks of completeness go before anything else: no mixture of old and new is ever complete.
    former = (_read_record(output) or {}).get("files", {})
    marks = [RECORD_NAME, *(name for name in _final_names() if name.endswith((MANIFEST_SUFFIX, ".idx")))]
    remove = [*marks, *former, REPORT_NAME, TIMINGS_NAME]
    write_json(work / FILE_LIST_NAME, {"remove": remove, "publish": [*files, RECORD_NAME]})
    publish(output)


def publish(output: Path) -> None:
    """Give all files on the list their final names; does what is left to do when it was stopped before."""
    work = output / WORK_NAME
    todo = json.loads((work / FILE_LIST_NAME).read_text(encoding="utf-8"))
    waiting = [name for name in todo["publish"] if (work / BUILT_NAME / name).exists()]
    if len(waiting) == len(todo["publish"]):
        for name in todo["remove"]:
            (output / name).unlink(missing_ok=True)
        sync_directory(output)
    for name in sorted(waiting, key=_publishing_order):
        os.replace(work / BUILT_NAME / name, output / name)
    sync_directory(output)
    shutil.rmtree(work)


def write_json(path: Path, value: Any) -> None:
    """Write a durable JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _publishing_order(name: str) -> int:
    """Data, then indices, then manifests, then the record."""
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
        rule, fix = f"cannot be read: {error}", "remove it, or choose another data_prep.output_dir"
        raise ConfigError([Violation(path=RECORD_NAME, value=path, message=rule, fix=fix)]) from error
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION:
        rule, fix = "is of another version", "set data_prep.overwrite=true after removing it"
        raise ConfigError([Violation(path=RECORD_NAME, value=path, message=rule, fix=fix)])
    return record


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Paths of the first few values that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found[:3]
    return [] if old == new else [path.removeprefix("settings.")]


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _output_violation(output: Path, rule: str, fix: str) -> Violation:
    return Violation(path="data_prep.output_dir", value=output, message=rule, fix=fix)


def _refuse_fix() -> str:
    return "choose another directory, or set data_prep.overwrite=true to replace it"


WORK_NAME = ".preparing"
BUILT_NAME = "built"
