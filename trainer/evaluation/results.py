"""Say which model figures are of."""

from pathlib import Path
from typing import Any

from trainer.checkpoint.adapter_base import fingerprint
from trainer.checkpoint.trainer_state import read_state
from trainer.inference.options import ModelOptions


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
