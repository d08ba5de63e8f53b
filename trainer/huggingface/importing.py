"""Import a Hugging Face model, or a GGUF file, as a checkpoint of weights in a run directory of its own."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.companions import read_generation_config
from trainer.checkpoint.directory import begin, checkpoint_name, checkpoints_directory, commit, list_checkpoints
from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.checkpoint.tokenizer import TokenizerCopy, copy_tokenizer
from trainer.checkpoint.trainer_state import (
    ORIGIN_NAME,
    STATE_NAME,
    TrainerState,
    TrainProgress,
    build_state,
    layout_of,
    write_state,
)
from trainer.config.derived import pad_vocab_size
from trainer.config.load import dump_config
from trainer.config.model import ModelConfig
from trainer.config.model_math import count_parameters
from trainer.config.parallel import ParallelConfig
from trainer.config.run import TokenizerConfig
from trainer.config.schema import TrainConfig
from trainer.huggingface.config_json import read_config_json
from trainer.huggingface.families.family import Family
from trainer.huggingface.families.heads import move_base
from trainer.huggingface.families.registry import read_model
from trainer.huggingface.gate import check_logits
from trainer.huggingface.native_weights import CopyProgress, write_native
from trainer.huggingface.output_directory import (
    cannot_use,
    created_directory,
    deleted_on_failure,
    write_errors_explained,
)
from trainer.huggingface.record import ImportRecord
from trainer.huggingface.tensor_map import Misfit, Names, Same, TensorRule, build_rules, find_misfits
from trainer.huggingface.tokenizer_files import open_source_tokenizer
from trainer.huggingface.weight_files import SafetensorsSource, WeightSource
from trainer.run_directory.directory import CONFIG_NAME
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.tokenizer.tokenizer import Tokenizer

_MAX_NAMED_MISFITS = 8
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Hold an opened model to import."""

    name: str
    """For messages and the record: the last part of its path."""
    content: Mapping[str, Any]
    """Of config.json."""
    weights: WeightSource
    tokenizer: Tokenizer | None
    directory: Path
    """That transformers can load."""
    gguf_file: str | None = None
    """Name of the GGUF file in the directory; None for safetensors."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """Hold what an import has written."""

    checkpoint: Path
    model_type: str
    num_parameters: int
    dtype: str
    gate: Mapping[str, Any] | None
    """Figures of the comparison with transformers; None if it was switched off."""


def open_source(path: Path) -> Source:
    """Open the directory of a model.

    Raises:
        ConfigError: config.json, weights or tokenizer are missing or damaged, or generation_config.json is damaged.
    """
    content = read_config_json(path)
    read_generation_config(path)  # damage, and values out of range, are reported before anything is written
    weights = SafetensorsSource(path)
    return Source(
        name=path.resolve().name,
        content=content,
        weights=weights,
        tokenizer=open_source_tokenizer(path),
        directory=path,
    )


def import_model(source: Source, output: Path, *, has_gate: bool = True) -> ImportResult:
    """Write a model as the checkpoint of step 0 of a run directory.

    Nothing is left behind where something is wrong.

    Args:
        source: from `open_source`.
        output: the run directory; it must have no checkpoints.
        has_gate: compare logits with those of transformers, which needs 4 bytes of memory per parameter.
    Raises:
        ConfigError: the model cannot be represented, a tensor is missing, or the directory has checkpoints.
        RunStopped: the gate fails, or a file cannot be written.
    """
    check_run_directory(output)
    family, model = read_model(source.content)
    model = _without_absent_pooler(model, source.weights)
    vocab_size = model.vocab_size
    assert vocab_size is not None
    padded_vocab_size = pad_vocab_size(model, vocab_size)
    rules, dropped = _fit(family, model, source, vocab_size=vocab_size, padded_vocab_size=padded_vocab_size)
    _check_tokenizer(source.tokenizer, vocab_size)
    if dropped:
        _LOGGER.warning("Not imported: %s.", ", ".join(dropped))
    used = {segment.name for rule in rules for segment in rule.segments}
    dtypes = {name: source.weights.tensors[name].dtype for name in sorted(used)}
    copy = copy_tokenizer(source.tokenizer) if source.tokenizer is not None else None
    state = state_of_import(model, output, padded_vocab_size=padded_vocab_size, copy=copy)
    num_parameters = count_parameters(model, vocab_size)
    with created_directory(checkpoints_directory(output), output=output), write_errors_explained(output):
        temporary = begin(output, step=0)
        with deleted_on_failure(temporary), write_errors_explained(output):
            progress = CopyProgress("Importing", total=count_parameters(model, padded_vocab_size), write=_LOGGER.info)
            files = write_native(temporary, rules, source.weights, report=progress)
            files[STATE_NAME] = write_state(temporary, state)
            gate = _prove(source, temporary, rules=rules, dtypes=dtypes) if has_gate else None
            record = ImportRecord.build(source=source.name, content=source.content, dtypes=dtypes, gate=gate)
            files |= _write_small_files(temporary, output, model=model, copy=copy, record=record)
            checkpoint = commit(temporary, step=0, files=files)
    return ImportResult(
        checkpoint=checkpoint,
        model_type=family.model_type,
        num_parameters=num_parameters,
        dtype=record.dtype,
        gate=gate,
    )


def _prove(
    source: Source, checkpoint: Path, *, rules: Sequence[TensorRule], dtypes: Mapping[str, torch.dtype]
) -> dict[str, Any]:
    """Compare logits with those of transformers; return the figures.

    Raises:
        RunStopped: the gate fails.
    """
    result = check_logits(
        source.directory,
        checkpoint,
        rules=rules,
        dtypes=dtypes,
        bos_id=source.content.get("bos_token_id"),
        gguf_file=source.gguf_file,
    )
    _LOGGER.info("The import is right: %s.", result)
    return result.to_record()


def check_run_directory(output: Path) -> None:
    """Check that an import may write into a run directory.

    Raises:
        ConfigError: it is no directory, or has checkpoints.
    """
    try:
        if output.exists() and not output.is_dir():
            raise cannot_use(output, "must be a directory")
        if list_checkpoints(output):
            raise cannot_use(output, "already has checkpoints", fix="Choose another directory, or delete it.")
    except OSError as error:
        raise cannot_use(output, f"cannot be read: {error.strerror}") from error


def _fit(
    family: Family, model: ModelConfig, source: Source, *, vocab_size: int, padded_vocab_size: int
) -> tuple[list[TensorRule], list[str]]:
    """Return the rules of a model's tensors, and the names of the tensors that are not imported.

    Raises:
        ConfigError: the tensors are not those that config.json describes.
    """
    shapes = {name: stored.shape for name, stored in source.weights.tensors.items()}
    names = family.names_of(model)
    if not any(name.startswith(family.base_prefix) for name in shapes):
        names = move_base(names, family.base_prefix, "")
    rules = build_rules(model, names, vocab_size=vocab_size, padded_vocab_size=padded_vocab_size)
    ignored = [name for name in shapes if name.endswith(family.unused_tensors)] if family.unused_tensors else []
    extra_layers = [name for name in shapes if family.may_have_later_layers and _is_later_layer(name, model.num_layers)]
    if not model.has_own_output_table:
        ignored.append(family.tied_copy)
        _check_copy(source.weights, names, copy=family.tied_copy)
    misfits = find_misfits(rules, shapes, ignored=[*ignored, *extra_layers])
    raise_if_any(_describe_misfits(misfits))
    return rules, sorted({".".join(name.split(".")[:3]) for name in extra_layers})


def _without_absent_pooler(model: ModelConfig, weights: WeightSource) -> ModelConfig:
    """Return the model without a pooler if it has no task and its weights lack one: config.json does not say."""
    if model.head != "none" or any(name.endswith("pooler.dense.weight") for name in weights.tensors):
        return model
    return replace(model, pooler="none")


def _is_later_layer(name: str, num_layers: int) -> bool:
    """Return whether a tensor belongs to a layer after the last: DeepSeek-V3's for predicting several tokens."""
    parts = name.split(".")
    return len(parts) > 3 and parts[:2] == ["model", "layers"] and parts[2].isdigit() and int(parts[2]) >= num_layers


def _check_copy(weights: WeightSource, names: Names, *, copy: str) -> None:
    """Compare a stored output layer with the embedding that config.json says it shares.

    Raises:
        ConfigError: they differ.
    """
    embedding = names["embedding.word_embeddings.weight"]
    assert isinstance(embedding, Same)
    head = weights.tensors.get(copy)
    stored = weights.tensors.get(embedding.name)
    if head is None or stored is None:
        return
    is_equal = head.shape == stored.shape and all(
        torch.equal(
            weights.read(copy, first, min(first + 4096, head.shape[0])),
            weights.read(embedding.name, first, min(first + 4096, head.shape[0])),
        )
        for first in range(0, head.shape[0], 4096)
    )
    if not is_equal:
        message = "differs from the embedding, but config.json sets tie_word_embeddings"
        fix = "Set tie_word_embeddings to false in config.json if the model has an output layer of its own."
        raise ConfigError([Violation(path=copy, value="", message=message, fix=fix)])


def _describe_misfits(misfits: list[Misfit]) -> list[Violation]:
    fix = "Give all files of one model."
    found = [Violation(path=one.name, value="", message=one.message, fix=fix) for one in misfits[:_MAX_NAMED_MISFITS]]
    if len(misfits) > _MAX_NAMED_MISFITS:
        rest = f"{len(misfits) - _MAX_NAMED_MISFITS} more tensors do not fit"
        found.append(Violation(path="weights", value="", message=rest, fix=fix))
    return found


def _check_tokenizer(tokenizer: Tokenizer | None, vocab_size: int) -> None:
    if tokenizer is None:
        _LOGGER.warning("The model comes without tokenizer.json or tokenizer.model; commands must be given one.")
    elif tokenizer.vocab_size > vocab_size:
        message = f"has {tokenizer.vocab_size} tokens, but the model's embedding has {vocab_size} rows"
        fix = "Give the tokenizer of this model."
        raise ConfigError([Violation(path=str(tokenizer.path), value="", message=message, fix=fix)])


def state_of_import(
    model: ModelConfig, output: Path, *, padded_vocab_size: int, copy: TokenizerCopy | None
) -> TrainerState:
    """Return the state of a checkpoint of weights, in a run directory of its own."""
    state = build_state(
        model,
        padded_vocab_size=padded_vocab_size,
        layout=layout_of(ParallelConfig(), world_size=1, engine="none", device_type="cpu"),
        run_name=output.resolve().name,
        progress=TrainProgress(),
        num_updates=0,
        seed=0,
        tokenizer=copy.record if copy is not None else None,
    )
    return replace(state, contents="weights")


def _write_small_files(
    temporary: Path, output: Path, *, model: ModelConfig, copy: TokenizerCopy | None, record: ImportRecord
) -> dict[str, FileRecord]:
    """Write tokenizer, record and a configuration that other commands start from."""
    tokenizer = None
    if copy is not None:
        tokenizer = str(checkpoints_directory(output).absolute() / checkpoint_name(0) / copy.record.file)
    config = TrainConfig(
        model=model,
        run_name=output.resolve().name,
        output_dir=str(output.resolve().parent),
        tokenizer=TokenizerConfig(path=tokenizer),
    )
    contents: dict[str, str | bytes] = {
        **(copy.files if copy is not None else {}),
        ORIGIN_NAME: record.to_json(),
        CONFIG_NAME: dump_config(config),
    }
    return {name: write_durably(temporary / name, content) for name, content in contents.items()}
