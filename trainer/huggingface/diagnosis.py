"""Name what differs between a checkpoint and Hugging Face files that should be the same model."""

from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.config_json import read_config_json
from trainer.huggingface.families.family import find_differences
from trainer.huggingface.families.registry import read_model
from trainer.huggingface.native_weights import NativeWeights, row_ranges
from trainer.huggingface.tensor_map import TensorRule
from trainer.huggingface.weight_files import SafetensorsSource
from trireme.errors import ConfigError

_MAX_NAMED = 4


def describe_culprits(directory: Path, checkpoint: Path, *, rules: Sequence[TensorRule]) -> str:
    """Return sentences that name the settings and tensors in which a directory differs from a checkpoint.

    Empty where settings and weights are all equal: then the difference is in the computation itself.
    """
    sentences = []
    try:
        _, written = read_model(read_config_json(directory))
        differences = find_differences(read_state(checkpoint).model_config(), written)
        if differences:
            shown = ", ".join(
                f"model.{name} is {ours} in the checkpoint and {theirs} in config.json"
                for name, (ours, theirs) in differences.items()
            )
            sentences.append(f"Settings differ: {shown}.")
    except ConfigError as error:
        sentences.append(f"config.json cannot be read back: {error}.")
    try:
        names = find_different_tensors(directory, checkpoint, rules=rules)
    except (ConfigError, KeyError) as error:
        return " ".join([*sentences, f"The weights cannot be compared: {error}."])
    if names:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        sentences.append(f"Weights differ: {', '.join(names[:_MAX_NAMED])}{more}.")
    return " ".join(sentences)


def find_different_tensors(directory: Path, checkpoint: Path, *, rules: Sequence[TensorRule]) -> list[str]:
    """Return the Hugging Face tensors whose values are not those of a checkpoint, rounded to their data type."""
    source, weights = SafetensorsSource(directory), NativeWeights(checkpoint)
    different: dict[str, None] = {}
    for rule in rules:
        for first, end in row_ranges(rule.tensor.shape):
            values = weights.read(rule, first, end)
            for segment in rule.overlaps(first, end):
                axis = 1 if rule.is_transposed else 0
                found = source.read(segment.name, segment.source_row, segment.source_row + segment.num_rows, axis=axis)
                found = found.t() if rule.is_transposed else found
                part = values[segment.row - first : segment.row - first + segment.num_rows]
                if not torch.equal(part.to(found.dtype), found):
                    different[segment.name] = None
    return list(different)
