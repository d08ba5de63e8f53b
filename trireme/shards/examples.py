"""Describe shards of examples for fine-tuning: rows of one length, and beside each token the label that it carries.

A shard of examples is a token shard whose every sequence is a row of `seq_length` tokens, with a second shard
PREFIX.labels of the same lengths: one int32 code per token, which holds the label and whether a document begins. The
manifest's settings record under "examples" what the labels mean. Numpy and the standard library only: data_tools and
trainer share this file. docs/data/examples.md describes the format.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from trireme.errors import ConfigError, Violation
from trireme.records import TargetKind as TargetKind
from trireme.records import Task as Task
from trireme.records import Truncation as Truncation
from trireme.shards.manifest import MANIFEST_SUFFIX, read_manifest
from trireme.shards.shard import shard_file

LABELS_SUFFIX = ".labels"
"""The labels of PREFIX are the shard PREFIX.labels."""
TOKEN_TYPES_SUFFIX = ".token_types"
"""The segments of the tokens of PREFIX, where there are several, are the shard PREFIX.token_types."""
RECORD_NAME = "examples.json"
"""File of checkpoints with the record of what their model was fine-tuned on."""
SETTINGS_KEY = "examples"
"""Name of the record among the settings of a manifest."""
NO_LABEL = -100
"""Code and label of a token that is no target."""
_STARTS_UNLABELLED = -101
"""Code of a token that is no target and with which a document begins; label L at such a token has code -102 - L."""
MAX_LABEL = 2**31 - 103
"""Largest label that a code can hold."""
MAX_CLASSES_OF_ONE_EXAMPLE = 30
"""Classes of a task in which an example may have several: the label is a set of bits."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Hold how texts became tokens, for whoever encodes further texts for the same model."""

    truncation: Truncation
    stride: int | None = None
    """Of qa: tokens of the text that two windows share."""
    text_column: str | None = None
    """Of classify and tag: field with the text or the words; in CoNLL's columns a number from 1. None where the usual
    place was taken."""
    second_column: str | None = None
    """Of classify: field with a second text; None where examples are single texts."""
    label_column: str | None = None
    """Of classify and tag: field with the label, as text_column."""
    label_separator: str = ","
    """Of `multi`: between the classes of a text in one cell."""
    chat_template: str | None = None
    """Of sft and dpo: Jinja template that rendered conversations; None where the tokenizer came without one."""


@dataclass(frozen=True, kw_only=True)
class ExamplesRecord:
    """Describe the rows of a shard.

    Labels by task: `sft`: the next token, where it is a target. `classify`: the class, at the first token of each
    document. `tag`: the tag of a word, at its first token. `qa`: at a document's first token the place of the answer's
    first token in the document, at its second token that of the answer's last; both 0 where there is no answer. `dpo`:
    as sft; documents 2k and 2k + 1 of a row are the chosen and the rejected answer to one prompt.
    """

    task: Task
    seq_length: int
    """Tokens of a row."""
    pad_token_id: int
    """Fills rows up; the padding of a row is one document without labels, its last."""
    num_examples: int
    """Documents with labels; pairs of them for dpo."""
    labels: tuple[str, ...] = ()
    """Names of the classes or tags, in the order of their numbers."""
    target_kind: TargetKind = "single"
    """Of classify: `single` is one class, `multi` a set of classes (bit i is class i), `value` a number."""
    value_range: tuple[float, float] | None = None
    """Of `value`: the numbers of label 0 and of label 2^30, between which labels are linear."""
    texts: TextSettings | None = None
    """None in records of earlier versions, which do not say."""


def encode_labels(labels: np.ndarray, *, starts: np.ndarray) -> np.ndarray:
    """Write labels as the codes of a shard.

    Args:
        labels: [n] int64, NO_LABEL or 0 to MAX_LABEL.
        starts: [n] bool, where documents begin.
    Returns:
        [n] int32.
    """
    assert ((labels == NO_LABEL) | ((labels >= 0) & (labels <= MAX_LABEL))).all(), "a label out of range"
    at_start = np.where(labels == NO_LABEL, _STARTS_UNLABELLED, _STARTS_UNLABELLED - 1 - labels)
    return np.where(starts, at_start, labels).astype(np.int32)


def decode_labels(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the codes of a shard.

    Args:
        codes: any shape, integers.
    Returns:
        labels (int64, NO_LABEL where there is none) and starts (bool), both of the same shape.
    """
    wide = codes.astype(np.int64)
    starts = wide <= _STARTS_UNLABELLED
    labelled = np.where(starts, _STARTS_UNLABELLED - 1 - wide, wide)
    return np.where(wide == _STARTS_UNLABELLED, NO_LABEL, labelled), starts


def encode_value(value: float, *, value_range: tuple[float, float]) -> int:
    """Return the label of a number inside a range; the step is a billionth of the range."""
    low, high = value_range
    return round((value - low) / (high - low) * 2**30) if high > low else 0


def decode_values(labels: np.ndarray, *, value_range: tuple[float, float]) -> np.ndarray:
    """Return the numbers of labels: any shape of integers to float64."""
    low, high = value_range
    values: np.ndarray = low + labels.astype(np.float64) / 2**30 * (high - low)
    return values


def record_settings(record: ExamplesRecord) -> dict[str, Any]:
    """Return what a manifest's settings hold of a record."""
    return {SETTINGS_KEY: asdict(record)}


def read_examples(prefix: str | Path) -> ExamplesRecord | None:
    """Read what the rows of a shard are; None for a shard of plain text.

    Raises:
        ConfigError: the manifest, or its record of the examples, is damaged.
    """
    manifest = read_manifest(prefix)
    values = None if manifest is None else manifest.settings.get(SETTINGS_KEY)
    if values is None:
        return None
    path = shard_file(prefix, MANIFEST_SUFFIX)
    return _record_from(values, path=path, fix="Prepare the examples again with `trireme prepare-examples`.")


def write_record(record: ExamplesRecord) -> str:
    """Return the content of RECORD_NAME, the file of checkpoints that says what a model was fine-tuned on."""
    return json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"


def read_record(directory: Path) -> ExamplesRecord | None:
    """Read what a checkpoint's model was fine-tuned on; None if it was not.

    Raises:
        ConfigError: the file is damaged.
    """
    path = directory / RECORD_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        values = None
    return _record_from(values, path=path, fix="Use another checkpoint, or restore the file.")


def _record_from(values: Any, *, path: Path, fix: str) -> ExamplesRecord:
    known = {field.name for field in fields(ExamplesRecord)}
    required = {"task", "seq_length", "pad_token_id", "num_examples"}
    if not isinstance(values, Mapping) or not required <= set(values):
        raise ConfigError([Violation(path=str(path), value="", message="lacks what its rows are", fix=fix)])
    found = {name: value for name, value in values.items() if name in known}
    found["labels"] = tuple(found.get("labels") or ())
    if found.get("value_range") is not None:
        found["value_range"] = tuple(found["value_range"])
    texts = found.get("texts")
    if texts is not None:
        known = {field.name for field in fields(TextSettings)}
        if not isinstance(texts, Mapping) or "truncation" not in texts:
            raise ConfigError([Violation(path=str(path), value="", message="lacks how its texts were cut", fix=fix)])
        found["texts"] = TextSettings(**{name: value for name, value in texts.items() if name in known})
    return ExamplesRecord(**found)
