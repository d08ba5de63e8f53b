"""Take model and tokenizer of a run from the checkpoint that its weights come from.

A checkpoint is read here only as far as the configuration needs it: its state's record of the model. Whether its files
are complete is checked before the start, with everything else.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from trainer.config.model import ModelConfig
from trireme.config.override_line import parse_override, quote_text
from trireme.config.path_text import BadPathError, expand_path

PRETRAINED = "pretrained_checkpoint"
_MANIFEST_NAME, _STATE_NAME, _DIRECTORY = "manifest.json", "trainer_state.json", "checkpoints"
"""Names of `trainer.checkpoint`, which is above this floor."""


def add_pretrained_settings(overrides: Sequence[str]) -> list[str]:
    """Put the model and tokenizer of `pretrained_checkpoint=PATH` before the other overrides, which may change them.

    Nothing is added where a preset of the model or a saved configuration is given, or where the path has no readable
    checkpoint, which is reported later.
    """
    keys = {line.partition("=")[0].lstrip("+"): line for line in overrides}
    if PRETRAINED not in keys or "model" in keys or "config_file" in keys:
        return list(overrides)
    checkpoint = _find_checkpoint(keys[PRETRAINED])
    record = _read_state(checkpoint) if checkpoint is not None else None
    if checkpoint is None or record is None:
        return list(overrides)
    added = [f"model.{name}={_write(value)}" for name, value in _model_values(record["model"]).items()]
    tokenizer = record.get("tokenizer")
    if tokenizer:
        added.append(f"tokenizer.path={quote_text(str(checkpoint / tokenizer['file']))}")
    return [*added, *overrides]


def _find_checkpoint(line: str) -> Path | None:
    """Return the latest checkpoint at the path of an override."""
    try:
        value = parse_override(line).value()
        path = Path(expand_path(str(value))) if value is not None else None
    except (HydraException, BadPathError):
        return None
    if path is None or (path / _MANIFEST_NAME).is_file():
        return path
    directory = path if path.name == _DIRECTORY else path / _DIRECTORY
    found = [entry.parent for entry in directory.glob(f"step_*/{_MANIFEST_NAME}") if "." not in entry.parent.name]
    return max(found, key=_serial, default=None)


def _serial(checkpoint: Path) -> tuple[int, str]:
    """Return the number of the save, and the name."""
    manifest = _read_object(checkpoint / _MANIFEST_NAME) or {}
    serial = manifest.get("serial")
    return (serial if isinstance(serial, int) else 0), checkpoint.name


def _read_state(checkpoint: Path) -> dict[str, Any] | None:
    record = _read_object(checkpoint / _STATE_NAME)
    return record if record is not None and isinstance(record.get("model"), dict) else None


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _model_values(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every field: that of the checkpoint, or the default that it had when it was saved."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ModelConfig):
        if field.name in saved:
            values[field.name] = saved[field.name]
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values


def _write(value: Any) -> str:
    """Write a value in the grammar of overrides, which is that of JSON for plain ones."""
    return value if isinstance(value, str) else json.dumps(value)
