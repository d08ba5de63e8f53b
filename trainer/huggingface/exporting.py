"""Export a checkpoint as a directory that transformers, vLLM and llama.cpp's converter load."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config.model_math import count_parameters
from trainer.huggingface.config_json import CONFIG_NAME
from trainer.huggingface.families.family import Family, config_of
from trainer.huggingface.families.registry import choose_family
from trainer.huggingface.gate import check_logits
from trainer.huggingface.native_weights import CopyProgress, NativeWeights, write_source
from trainer.huggingface.output_directory import (
    cannot_use,
    created_directory,
    delete_leftovers,
    scratch_directory,
    write_errors_explained,
)
from trainer.huggingface.record import ImportRecord, read_record
from trainer.huggingface.tensor_map import TensorRule, build_rules, list_source_tensors
from trainer.huggingface.tokenizer_files import write_generation_config, write_tokenizer_files
from trainer.huggingface.weight_files import DTYPES, PlannedTensor, SafetensorsWriter
from trainer.saved_run import SavedRun
from trireme.errors import raise_if_any
from trireme.files import sync_directory, write_whole
from trireme.shards.examples import TargetKind
from trireme.shards.examples import read_record as read_examples_record
from trireme.tokenizer.tokenizer import Tokenizer

MAX_SHARD_BYTES = 5 * 10**9
"""Largest file, as transformers writes them."""
_SCRATCH_PREFIX = ".trireme-export-"
_MOVED_NAME = ".moved.json"
_TORCH_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_PROBLEMS: Mapping[TargetKind, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "value": "regression",
}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Hold what an export has written."""

    directory: Path
    checkpoint: Path
    step: int
    model_type: str
    num_parameters: int
    dtype: str
    gate: Mapping[str, Any] | None
    """Figures of the comparison with transformers; None if it was switched off."""


def export_model(
    saved: SavedRun,
    output: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    has_gate: bool = True,
    base: Path | None = None,
) -> ExportResult:
    """Write a checkpoint's weights, configuration and tokenizer; whatever layout saved it.

    The files appear at once, when the logits are proved, or not at all.

    Args:
        saved: from `open_saved_run`.
        output: a directory that does not exist or is empty.
        dtype: fp32, bf16 or fp16; None takes that of the import which the weights go back to, or fp32.
        max_shard_bytes: largest size of one weight file.
        has_gate: compare logits with those of transformers, which needs 4 bytes of memory per parameter.
        base: where the base checkpoint of adapters is, which are merged; None takes the path that they name.
    Raises:
        ConfigError: no family has such a model, or the checkpoint is damaged.
        RunStopped: the gate fails, the tokenizer cannot be converted, or a file cannot be written.
    """
    check_output(output)
    state, record = saved.state, read_record(saved.checkpoint)
    model = state.model_config()
    vocab_size = state.vocab_size or state.padded_vocab_size
    family = choose_family(model, vocab_size=vocab_size, preferred=record.model_type if record is not None else None)
    rules = build_rules(model, family.names_of(model), vocab_size=vocab_size, padded_vocab_size=state.padded_vocab_size)
    weights = NativeWeights(saved.checkpoint, base=base)
    raise_if_any(weights.check(rules))
    planned = _plan(rules, record=record, dtype=dtype)
    with (
        created_directory(output, output=output),
        write_errors_explained(output),
        scratch_directory(output, prefix=_SCRATCH_PREFIX) as scratch,
        write_errors_explained(output),
    ):
        total = count_parameters(model, state.padded_vocab_size)
        progress = CopyProgress("Exporting", total=total, write=_LOGGER.info)
        with SafetensorsWriter(scratch, planned, max_shard_bytes=max_shard_bytes) as writer:
            write_source(writer, rules, weights, report=progress)
        token_ids = write_texts(scratch, saved, family=family, vocab_size=vocab_size, record=record, planned=planned)
        gate = None
        if has_gate:
            dtypes = {one.tensor.name: one.dtype for one in planned}
            bos_id = token_ids.get("bos_token_id")
            result = check_logits(scratch, saved.checkpoint, rules=rules, dtypes=dtypes, bos_id=bos_id, base=base)
            _LOGGER.info("The export is right: %s.", result)
            gate = result.to_record()
        publish(scratch, output)
    return ExportResult(
        directory=output,
        checkpoint=saved.checkpoint,
        step=state.step,
        model_type=family.model_type,
        num_parameters=count_parameters(model, vocab_size),
        dtype=dtype or (record.dtype if record is not None else "fp32"),
        gate=gate,
    )


def check_output(output: Path) -> None:
    """Check that an export may write into a directory.

    Raises:
        ConfigError: it is no directory, or is not empty.
    """
    try:
        if output.exists() and not output.is_dir():
            raise cannot_use(output, "must be a directory")
        if not output.is_dir():
            return
        delete_leftovers(output, prefix=_SCRATCH_PREFIX, before=_take_back)
        found = [path.name for path in output.iterdir()]
    except OSError as error:
        raise cannot_use(output, f"cannot be read: {error.strerror}") from error
    if any(name.startswith(_SCRATCH_PREFIX) for name in found):
        raise cannot_use(output, "is being written by another export", fix="Wait for it, or choose another directory.")
    if found:
        raise cannot_use(output, "must be empty", fix="Choose another directory, or delete its contents.")


def publish(scratch: Path, output: Path, *, last: str = CONFIG_NAME) -> None:
    """Move the files into the output directory, config.json last: without it, nothing takes the rest for a model.

    A list of them in the scratch directory lets the next export remove what a killed one had moved.
    """
    moved: list[Path] = []
    try:
        paths = sorted(scratch.iterdir(), key=lambda path: path.name == last)
        write_whole(scratch / _MOVED_NAME, json.dumps([path.name for path in paths]))
        for path in paths:
            moved.append(path.rename(output / path.name))
        sync_directory(output)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def _take_back(scratch: Path) -> None:
    """Remove the files that a killed export had moved, unless it had moved all of them."""
    listed = scratch / _MOVED_NAME
    if not listed.is_file():
        return
    names = json.loads(listed.read_text(encoding="utf-8"))
    if any((scratch / name).exists() for name in names):
        for name in names:
            (scratch.parent / name).unlink(missing_ok=True)


def _plan(rules: list[TensorRule], *, record: ImportRecord | None, dtype: str | None) -> list[PlannedTensor]:
    """Choose the data type of each tensor."""
    tensors = list_source_tensors(rules)
    if dtype is None and record is not None:
        return [PlannedTensor(tensor=tensor, dtype=record.dtype_of(tensor.name)) for tensor in tensors]
    return [PlannedTensor(tensor=tensor, dtype=DTYPES[dtype or "fp32"]) for tensor in tensors]


def write_texts(
    directory: Path,
    saved: SavedRun,
    *,
    family: Family,
    vocab_size: int,
    record: ImportRecord | None,
    planned: list[PlannedTensor],
) -> dict[str, Any]:
    """Write config.json, generation_config.json and the tokenizer's files; return the ids of special tokens."""
    token_ids: dict[str, Any] = dict(record.token_ids) if record is not None else {}
    if saved.tokenizer_path is not None:
        write_tokenizer_files(saved.tokenizer_path, directory)
        tokenizer = Tokenizer(saved.tokenizer_path)
        found = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        token_ids = {key: value for key, value in found.items() if value is not None} | token_ids
    else:
        _LOGGER.warning("The checkpoint contains no tokenizer, so none is exported.")
    write_generation_config(directory, token_ids)
    model = saved.state.model_config()
    # Without these, transformers takes the family's own ids.
    absent = dict.fromkeys(("bos_token_id", "eos_token_id"), None)
    sizes: dict[torch.dtype, int] = {}
    for one in planned:
        sizes[one.dtype] = sizes.get(one.dtype, 0) + one.num_bytes
    content = {
        **config_of(family, model, vocab_size=vocab_size, labels=_labels_of(saved, record)),
        **_problem_of(saved, record),
        **absent,
        **token_ids,
        "torch_dtype": _TORCH_NAMES[max(sizes, key=lambda dtype: sizes[dtype])],
    }
    (directory / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return token_ids


def _labels_of(saved: SavedRun, record: ImportRecord | None) -> Sequence[str] | None:
    """Return the names of a head's classes: of the examples that it was trained on, or of the import; else None."""
    examples = read_examples_record(saved.checkpoint)
    known = [examples.labels] if examples is not None else []
    known += [record.labels] if record is not None else []
    return next((names for names in known if len(names) == saved.state.model_config().num_scores), None)


def _problem_of(saved: SavedRun, record: ImportRecord | None) -> dict[str, str]:
    """Return the key that says how the head of a classifier was trained, if that is known."""
    if saved.state.model_config().head != "classification":
        return {}
    examples = read_examples_record(saved.checkpoint)
    if examples is not None:
        return {"problem_type": _PROBLEMS[examples.target_kind]}
    found = record.problem_type if record is not None else None
    return {} if found is None else {"problem_type": found}
