"""Say which model figures are of, and keep the figures of one run after another in a file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.adapter_base import fingerprint
from trainer.checkpoint.trainer_state import read_state
from trainer.inference.options import ModelOptions
from trireme.files import write_whole
from trireme.strict_json import to_json

_LOGGER = logging.getLogger(__name__)


def describe_model(options: ModelOptions, *, checkpoint: Path, tokenizer_sha256: str) -> dict[str, Any]:
    """Return what figures of a model depend on: checkpoint, base, tokenizer, precision and batch size.

    Raises:
        ConfigError: the checkpoint is damaged.
    """
    state = read_state(checkpoint)
    return {
        "checkpoint": str(checkpoint),
        "run_name": state.run_name,
        "step": state.step,
        "checkpoint_sha256": fingerprint(checkpoint),
        "base_sha256": state.base.sha256 if state.base is not None else None,
        "tokenizer_sha256": tokenizer_sha256,
        "params_dtype": options.params_dtype,
        "batch_size": options.max_batch_size,
    }


def describe_layout(options: ModelOptions) -> dict[str, int]:
    """Return the sizes of the layout."""
    names = ("tensor", "pipeline", "expert")
    return {f"{name}_model_parallel_size": getattr(options, f"{name}_model_parallel_size") for name in names}


def keep_result(path: Path, result: Mapping[str, Any]) -> None:
    """Add a result to the JSON list in a file; a file that is no list is replaced, with a warning."""
    try:
        write_whole(path, to_json([*_read_results(path), result]) + "\n")
    except OSError as error:
        _LOGGER.warning("Failed to write %s: %s", path, error.strerror)


def _read_results(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        content = None
    if isinstance(content, list):
        return content
    _LOGGER.warning("%s was no list of results; it is replaced.", path)
    return []
