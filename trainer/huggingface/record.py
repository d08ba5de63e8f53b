"""Keep what a checkpoint of Trireme has no field for: from which family and data types a model was imported."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from trainer.checkpoint.trainer_state import ORIGIN_NAME
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.weight_files import DTYPES
from trireme.errors import ConfigError, Violation

_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """Hold the origin of imported weights. Runs that start from them keep it, so that they export alike."""

    source: str
    """Name of the directory or file that was imported."""
    model_type: str
    """Of its config.json."""
    dtype: str
    """Data type of most of its weights, by this project's name."""
    other_dtypes: Mapping[str, str] = field(default_factory=dict)
    """Data types of the other weights, by Hugging Face's name of the tensor."""
    token_ids: Mapping[str, Any] = field(default_factory=dict)
    """bos_token_id, eos_token_id and pad_token_id of its config.json."""
    labels: tuple[str, ...] = ()
    """Names of the classes of its head, in the order of their numbers."""
    problem_type: str | None = None
    """problem_type of its config.json: the loss that transformers trains the head with."""
    gate: Mapping[str, Any] | None = None
    """Result of the comparison with transformers; None if it was switched off."""

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the data type of a tensor."""
        return DTYPES[self.other_dtypes.get(name, self.dtype)]

    def to_json(self) -> str:
        """Write the content of the record's file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def build(
        cls,
        *,
        source: str,
        content: Mapping[str, Any],
        dtypes: Mapping[str, torch.dtype],
        gate: Mapping[str, Any] | None,
    ) -> Self:
        """Build the record of an import.

        Args:
            content: of config.json.
            dtypes: of the tensors, by name.
        """
        names = {dtype: name for name, dtype in DTYPES.items()}
        # fp64 is stored nowhere in practice; its values are rounded to the fp32 of a checkpoint.
        found = {name: names.get(dtype, "fp32") for name, dtype in dtypes.items()}
        counts = {name: list(found.values()).count(name) for name in DTYPES}
        dtype = max(counts, key=lambda name: counts[name])
        return cls(
            source=source,
            model_type=str(content["model_type"]),
            dtype=dtype,
            other_dtypes={name: other for name, other in found.items() if other != dtype},
            token_ids={key: content[key] for key in _TOKEN_KEYS if content.get(key) is not None},
            labels=tuple(ConfigReader(content).labels()) if "id2label" in content else (),
            problem_type=content.get("problem_type"),
            gate=gate,
        )


def read_record(checkpoint: Path) -> ImportRecord | None:
    """Read the record of an imported checkpoint, or of one that a run from it saved; None for other checkpoints.

    Raises:
        ConfigError: it is damaged.
    """
    path = checkpoint / ORIGIN_NAME
    if not path.is_file():
        return None
    try:
        record = ImportRecord(**json.loads(path.read_bytes()))
        if not {record.dtype, *record.other_dtypes.values()} <= DTYPES.keys():
            raise ValueError("it names an unknown data type")
        return record
    except (OSError, ValueError, TypeError, AttributeError) as error:
        fix = "Restore it from a copy, or import the model again."
        raise ConfigError([Violation(path=str(path), value="", message=f"is damaged: {error}", fix=fix)]) from error
