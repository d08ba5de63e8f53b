"""Say what the path of `pretrained_checkpoint` names where it is no checkpoint."""

import os
from pathlib import Path

from trainer.config.pretrained import PRETRAINED
from trireme.errors import Violation

_MANIFEST_NAME, _DIRECTORY = "manifest.json", "checkpoints"
"""Names of `trainer.checkpoint`, which is above this floor."""


def find_missing_checkpoint(path: Path) -> Violation | None:
    """Return the error of a path at which there is no checkpoint, neither whole nor damaged; None if there is one."""
    directory = path if path.name == _DIRECTORY else path / _DIRECTORY
    if os.path.isfile(path / _MANIFEST_NAME) or any(directory.glob(f"step_*/{_MANIFEST_NAME}")):
        return None
    message, fix = "contains no checkpoint", "Use a run directory, an import (`trireme import-hf`) or a checkpoint."
    if not os.path.exists(path):  # not Path.exists, which raises where a directory may not be entered
        message = "does not exist"
    elif os.path.isfile(path if path.suffix == ".gguf" else path / "config.json"):
        kind = "GGUF file" if path.suffix == ".gguf" else "model of Hugging Face transformers"
        message = f"is a {kind}, not a checkpoint"
        fix = f"Import it: `trireme import-hf {path} OUTPUT_DIR`, then set {PRETRAINED}=OUTPUT_DIR."
    return Violation(path=PRETRAINED, value=path, message=message, fix=fix)
