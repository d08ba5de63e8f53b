"""Take model and tokenizer of a run from the checkpoint that its weights come from.

A checkpoint is read here only as far as the configuration needs it: its state's record of the model. Whether its files
are complete is checked before the start, with everything else.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.errors import HydraException

from trainer.config.model import ModelConfig
from trireme.config.compose import SEARCH_PATH
from trireme.config.override_line import parse_override, quote_text
from trireme.config.path_text import BadPathError, expand_path
from trireme.project import CONF_DIR

RECIPE_GROUP = "experiment"
PRETRAINED = "pretrained_checkpoint"
_MANIFEST_NAME, _STATE_NAME, _DIRECTORY = "manifest.json", "trainer_state.json", "checkpoints"
"""Names of `trainer.checkpoint`, which is above this floor."""


def add_pretrained_settings(overrides: Sequence[str]) -> list[str]:
    """Put the model and tokenizer of `pretrained_checkpoint=PATH` before the other overrides, which may change them.

    A recipe (`experiment=NAME`) may name the checkpoint too, and the values that it sets for model and tokenizer change
    those of the checkpoint as well. Nothing is added where a preset of the model or a saved configuration is given, or
    where the path has no readable checkpoint, which is reported later.
    """
    keys = {line.partition("=")[0].lstrip("+"): line for line in overrides}
    if "model" in keys or "config_file" in keys:
        return list(overrides)
    recipe = _read_recipe(keys)
    if any("override /model" in entry for entry in recipe.get("defaults") or [] if isinstance(entry, dict)):
        return list(overrides)
    path = _value(keys[PRETRAINED]) if PRETRAINED in keys else recipe.get(PRETRAINED)
    checkpoint = _find_checkpoint(path)
    record = _read_state(checkpoint) if checkpoint is not None else None
    if checkpoint is None or record is None:
        return list(overrides)
    of_recipe = recipe.get("model") or {}
    values = {name: value for name, value in _model_values(record["model"]).items() if name not in of_recipe}
    added = [f"model.{name}={_write(value)}" for name, value in values.items()]
    tokenizer = record.get("tokenizer")
    if tokenizer and "path" not in (recipe.get("tokenizer") or {}):
        added.append(f"tokenizer.path={quote_text(str(checkpoint / tokenizer['file']))}")
    return [*added, *overrides]


def _read_recipe(keys: Mapping[str, str]) -> dict[str, Any]:
    """Read the recipe that the overrides choose, as it is written; empty without one, or if it cannot be read."""
    name = _value(keys.get(RECIPE_GROUP))
    if not isinstance(name, str):
        return {}
    further = _value(keys.get(SEARCH_PATH))
    for directory in (*(further if isinstance(further, list) else ()), CONF_DIR):
        file = Path(str(directory)) / RECIPE_GROUP / f"{name}.yaml"
        if file.is_file():
            try:
                content = yaml.safe_load(file.read_bytes())
            except (OSError, yaml.YAMLError):
                return {}
            return content if isinstance(content, dict) else {}
    return {}


def _value(line: str | None) -> Any:
    """Return the value of an override; None if there is none, or if it cannot be read."""
    if line is None:
        return None
    try:
        return parse_override(line).value()
    except HydraException:
        return None


def _find_checkpoint(value: object) -> Path | None:
    """Return the latest checkpoint at a path."""
    try:
        path = Path(expand_path(str(value))) if value is not None else None
    except BadPathError:
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
