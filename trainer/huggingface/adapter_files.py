"""Export adapters as a directory that peft loads, import such a directory, and merge adapters into full weights."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from trainer.build import wire_model
from trainer.checkpoint.adapter_base import lora_record, record_base
from trainer.checkpoint.adapters import SavedAdapters
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.directory import begin, checkpoints_directory, commit
from trainer.checkpoint.load import load_frozen, load_weights
from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.checkpoint.pieces import WEIGHTS_PREFIX, ShardedTensorView
from trainer.checkpoint.save import write_pieces
from trainer.checkpoint.tokenizer import copy_tokenizer, inherit_files
from trainer.checkpoint.trainer_state import STATE_NAME, TrainerState, write_state
from trainer.config.load import dump_config
from trainer.config.model_math import count_parameters
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.run import TokenizerConfig
from trainer.config.schema import TrainConfig
from trainer.huggingface.adapters import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    PeftAdapter,
    check_config,
    from_peft,
    to_peft,
)
from trainer.huggingface.exporting import (
    check_output,
    publish,
    write_texts,
)
from trainer.huggingface.families.family import Family
from trainer.huggingface.families.registry import choose_family
from trainer.huggingface.gate import (
    MAX_AMPLIFIED_DIFFERENCE,
    GateResult,
    check_logits,
    compare_logits,
    gate_ids,
    logits_of_model,
)
from trainer.huggingface.importing import check_run_directory, state_of_import
from trainer.huggingface.native_tensors import NativeTensor, list_native_tensors
from trainer.huggingface.native_weights import CopyProgress, NativeWeights, Report, row_ranges, write_source
from trainer.huggingface.output_directory import (
    created_directory,
    deleted_on_failure,
    scratch_directory,
    write_errors_explained,
)
from trainer.huggingface.record import ImportRecord, read_record
from trainer.huggingface.tensor_map import TensorRule, build_rules, list_source_tensors
from trainer.huggingface.weight_files import PlannedTensor, SafetensorsWriter
from trainer.parallel.world import start_world, stop_world
from trainer.run_directory.directory import CONFIG_NAME
from trainer.saved_run import SavedRun
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.tokenizer.tokenizer import Tokenizer

_MLP_LAYERS = ("gate_proj", "up_proj", "down_proj")
_SCRATCH_PREFIX = ".trireme-export-"
_MAX_SHARD_BYTES = 5 * 10**9
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdapterResult:
    """Hold what a command has written."""

    directory: Path
    checkpoint: Path
    """Of the adapters; of an import and a merge, the written one."""
    num_parameters: int
    """Written."""
    gate: Mapping[str, Any] | None
    """Figures of the comparison of logits; None if it was switched off."""


def export_adapter(
    saved: SavedRun,
    output: Path,
    *,
    base: Path | None = None,
    base_model: str | None = None,
    has_gate: bool = True,
) -> AdapterResult:
    """Write adapters in peft's format: adapter_config.json and adapter_model.safetensors, fp32.

    The proof exports the base too, into a directory that is deleted again.

    Args:
        saved: from `open_saved_run`, of adapters.
        output: a directory that does not exist or is empty.
        base: where the base checkpoint is; None takes the path that the adapters name.
        base_model: name or path from which transformers loads the base, for adapter_config.json; None takes the name of
            what was imported, or of the base checkpoint.
        has_gate: compare logits with those of peft around transformers, with 4 bytes of memory per parameter.
    Raises:
        ConfigError: no family has such a model, or peft cannot have adapters of such layers in it.
        RunStopped: the logits differ, or a file cannot be written.
    """
    check_output(output)
    state = saved.state
    adapters = SavedAdapters(saved.checkpoint, state)
    weights = NativeWeights(saved.checkpoint, base=base)
    family, rules, record = _find_rules(state, weights.checkpoint)
    base_name = base_model or (record.source if record is not None else weights.checkpoint.name)
    if base_model is None and (base_name.endswith(".gguf") or not Path(base_name).is_dir()):
        _LOGGER.warning(
            "peft cannot load the base by the name in %s, %s: give the base to PeftModel yourself, or export again"
            " with --base-model NAME_OR_PATH.",
            CONFIG_FILE,
            base_name,
        )
    peft = to_peft(adapters, rules, base_name=base_name)
    if mistaken := _find_mistaken(peft, family):
        message = f"contains dense MLPs or shared experts, which peft takes for routed experts: {mistaken[0]}"
        fix = "Merge the adapters, or leave out --adapter: then the merged model is exported."
        targets = ", ".join(adapters.lora.target_modules)
        raise ConfigError([Violation(path="lora.target_modules", value=targets, message=message, fix=fix)])
    with (
        created_directory(output, output=output),
        write_errors_explained(output),
        scratch_directory(output, prefix=_SCRATCH_PREFIX) as scratch,
        write_errors_explained(output),
    ):
        # save_file would report a full disk by an error of its own.
        (scratch / WEIGHTS_FILE).write_bytes(save(dict(peft.tensors), metadata={"format": "pt"}))
        (scratch / CONFIG_FILE).write_text(json.dumps(peft.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        gate = None
        if has_gate:
            result = _prove(saved, rules, record, weights, adapter=scratch, folder=output, base=weights.checkpoint)
            _LOGGER.info("The export is right: %s.", result)
            gate = result.to_record()
        publish(scratch, output, last=CONFIG_FILE)
    num_parameters = sum(tensor.numel() for tensor in peft.tensors.values())
    return AdapterResult(directory=output, checkpoint=saved.checkpoint, num_parameters=num_parameters, gate=gate)


def _find_mistaken(peft: PeftAdapter, family: Family) -> list[str]:
    """Return the modules whose adapters peft takes for those of routed experts: dense MLPs and shared experts."""
    if not family.peft_moves_mlps:
        return []
    modules = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in peft.tensors if ".experts" not in name}
    return sorted(module for module in modules if module.rpartition(".")[2] in _MLP_LAYERS)


def _find_rules(state: TrainerState, base: Path) -> tuple[Family, list[TensorRule], ImportRecord | None]:
    """Return the family of a model's base, the rules of the model in it, and the record of the base."""
    record, model = read_record(base), state.model_config()
    vocab_size = state.vocab_size or state.padded_vocab_size
    family = choose_family(model, vocab_size=vocab_size, preferred=record.model_type if record is not None else None)
    names = family.names_of(model)
    rules = build_rules(model, names, vocab_size=vocab_size, padded_vocab_size=state.padded_vocab_size)
    return family, rules, record


def _prove(
    saved: SavedRun,
    rules: Sequence[TensorRule],
    record: ImportRecord | None,
    weights: NativeWeights,
    *,
    adapter: Path,
    folder: Path,
    base: Path,
) -> GateResult:
    """Compare the logits of a checkpoint of adapters with those of peft, around an fp32 export of the base.

    Raises:
        RunStopped: they differ.
    """
    state = saved.state
    model, vocab_size = state.model_config(), state.vocab_size or state.padded_vocab_size
    family = choose_family(model, vocab_size=vocab_size, preferred=record.model_type if record is not None else None)
    planned = [PlannedTensor(tensor=one, dtype=torch.float32) for one in list_source_tensors(rules)]
    with scratch_directory(folder, prefix=_SCRATCH_PREFIX) as beneath:
        with SafetensorsWriter(beneath, planned, max_shard_bytes=_MAX_SHARD_BYTES) as writer:
            write_source(writer, rules, weights.without_adapters(), report=lambda _: None)
        ids = write_texts(beneath, saved, family=family, vocab_size=vocab_size, record=record, planned=planned)
        return check_logits(
            beneath,
            saved.checkpoint,
            rules=rules,
            dtypes={one.tensor.name: one.dtype for one in planned},
            bos_id=ids.get("bos_token_id"),
            adapter=adapter,
            base=base,
        )


def import_adapter(source: Path, output: Path, *, base: SavedRun, has_gate: bool = True) -> AdapterResult:
    """Write an adapter of peft as the checkpoint of step 0 of a run directory; nothing is left where it fails.

    Args:
        source: directory with adapter_config.json and adapter_model.safetensors.
        output: the run directory; it must have no checkpoints.
        base: the model that it was trained on.
        has_gate: compare logits with those of peft around transformers.
    Raises:
        ConfigError: a file is missing or damaged, a setting cannot be represented, or a layer is not the base's.
        RunStopped: the logits differ, or a file cannot be written.
    """
    check_run_directory(output)
    if base.state.base is not None:
        message, fix = "holds adapters, not all weights", "Give the checkpoint beneath, or merge it first."
        raise ConfigError([Violation(path="--base", value=base.checkpoint, message=message, fix=fix)])
    peft = read_peft(source)
    family, rules, record = _find_rules(base.state, base.checkpoint)
    model = base.state.model_config()
    native = from_peft(peft, rules, model=model)
    if has_gate and (mistaken := _find_mistaken(peft, family)):
        message = f"cannot compare {mistaken[0]}, whose adapter peft takes for one of routed experts"
        raise ConfigError([Violation(path="--gate", value="on", message=message, fix="Use --gate off.")])
    tokenizer = Tokenizer(base.tokenizer_path) if base.tokenizer_path is not None else None
    copy = copy_tokenizer(tokenizer) if tokenizer is not None else None
    state = replace(
        state_of_import(model, output, padded_vocab_size=base.state.padded_vocab_size, copy=copy),
        lora=lora_record(native.lora),
        base=record_base(base.checkpoint, run_directory=output),
    )
    further = {
        **inherit_files(base.checkpoint, tokenizer=copy, keeps_task=True),
        **(copy.files if copy is not None else {}),
    }
    pieces = {}
    for key, tensor in native.tensors.items():
        pieces[WEIGHTS_PREFIX + key] = view = ShardedTensorView(tensor.shape, dtype=torch.float32)
        view.add((0,) * tensor.ndim, tensor)
    with _written_run(output) as temporary:
        files = write_pieces(temporary, pieces, ranks=Ranks(is_alone=True))
        config = TrainConfig(
            model=model,
            run_name=output.resolve().name,
            output_dir=str(output.resolve().parent),
            lora=native.lora,
            pretrained_checkpoint=str(base.checkpoint.resolve()),
            tokenizer=TokenizerConfig(path=str(base.tokenizer_path) if base.tokenizer_path is not None else None),
        )
        files |= _write_files(temporary, state, {**further, CONFIG_NAME: dump_config(config)})
        gate = None
        if has_gate:
            opened = replace(base, checkpoint=temporary, state=state)
            weights = NativeWeights(temporary, base=base.checkpoint)
            result = _prove(
                opened, rules, record, weights, adapter=source, folder=temporary.parent, base=base.checkpoint
            )
            _LOGGER.info("The import is right: %s.", result)
            gate = result.to_record()
        checkpoint = commit(temporary, step=0, files=files)
    num_parameters = sum(tensor.numel() for tensor in native.tensors.values())
    return AdapterResult(directory=output, checkpoint=checkpoint, num_parameters=num_parameters, gate=gate)


def read_peft(source: Path) -> PeftAdapter:
    """Read an adapter's directory.

    Raises:
        ConfigError: a file is missing or damaged, or a setting cannot be represented.
    """
    try:
        config = json.loads((source / CONFIG_FILE).read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError) as error:
        message, fix = f"cannot be read: {error}", "Give the directory that save_pretrained of peft has written."
        raise ConfigError([Violation(path=CONFIG_FILE, value=source, message=message, fix=fix)]) from error
    raise_if_any(check_config(config))
    try:
        return PeftAdapter(config=config, tensors=load_file(source / WEIGHTS_FILE))
    except (OSError, SafetensorError) as error:
        message, fix = f"cannot be read: {error}", "Save the adapter as safetensors, which peft does."
        raise ConfigError([Violation(path=WEIGHTS_FILE, value=source, message=message, fix=fix)]) from error


@contextlib.contextmanager
def _written_run(output: Path) -> Iterator[Path]:
    """Yield the directory of an unfinished checkpoint of step 0, which is deleted where the block raises."""
    with created_directory(checkpoints_directory(output), output=output), write_errors_explained(output):
        temporary = begin(output, step=0)
        with deleted_on_failure(temporary), write_errors_explained(output):
            yield temporary


def _write_files(directory: Path, state: TrainerState, contents: Mapping[str, str | bytes]) -> dict[str, FileRecord]:
    files = {name: write_durably(directory / name, content) for name, content in contents.items()}
    return {**files, STATE_NAME: write_state(directory, state)}


def merge_adapter(saved: SavedRun, output: Path, *, base: Path | None = None) -> AdapterResult:
    """Write adapters added to the weights of their base as the checkpoint of step 0 of a run directory.

    The merged model must compute what base and adapters compute, within the bound of imports; else nothing is written.
    Weights are read and written in small parts; the proof needs 4 bytes of memory per parameter, and 8 where the
    logits differ by more than in most models, so that rounding is measured.

    Args:
        saved: from `open_saved_run`, of adapters.
        output: the run directory; it must have no checkpoints.
        base: where the base checkpoint is; None takes the path that the adapters name.
    Raises:
        ConfigError: the checkpoint holds no adapters, or its base is missing or another one.
        RunStopped: the logits differ, or a file cannot be written.
    """
    check_run_directory(output)
    state = saved.state
    if state.base is None:
        message, fix = "holds all weights and no adapters", "Give a checkpoint of a run with lora.rank."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    weights, model = NativeWeights(saved.checkpoint, base=base), state.model_config()
    tokenizer = Tokenizer(saved.tokenizer_path) if saved.tokenizer_path is not None else None
    copy = copy_tokenizer(tokenizer) if tokenizer is not None else None
    merged = state_of_import(model, output, padded_vocab_size=state.padded_vocab_size, copy=copy)
    further = {
        **inherit_files(saved.checkpoint, tokenizer=copy, keeps_task=True),
        **(copy.files if copy is not None else {}),
    }
    config = TrainConfig(
        model=model,
        run_name=output.resolve().name,
        output_dir=str(output.resolve().parent),
        tokenizer=TokenizerConfig(path=str(saved.tokenizer_path) if saved.tokenizer_path is not None else None),
    )
    num_parameters = count_parameters(model, state.padded_vocab_size)
    with _written_run(output) as temporary:
        progress = CopyProgress("Merging", total=num_parameters, write=_LOGGER.info)
        files = _write_merged(temporary, weights, state, report=progress)
        files |= _write_files(temporary, merged, {**further, CONFIG_NAME: dump_config(config)})
        result = _compare_merged(saved, temporary, base=weights.checkpoint, bos_id=_find_bos(tokenizer, weights))
        if not result.has_passed:
            message = f"The merged model is not that of base and adapters: {result}. Nothing was written to {output}."
            raise RunStopped(message, exit_code=EXIT_STOPPED)
        _LOGGER.info("The merge is right: %s.", result)
        checkpoint = commit(temporary, step=0, files=files)
    gate = result.to_record()
    return AdapterResult(directory=output, checkpoint=checkpoint, num_parameters=num_parameters, gate=gate)


class _MergedView(ShardedTensorView):
    """Hold a tensor whose chunks are read and merged when the checkpoint's writer asks for them."""

    def __init__(self, global_shape: Sequence[int], weights: NativeWeights, report: Report) -> None:
        super().__init__(global_shape, dtype=torch.float32)
        self._weights, self._report = weights, report
        self._chunks: dict[torch.Size, tuple[torch.Size, TensorRule]] = {}

    def add_tensor(self, tensor: NativeTensor) -> None:
        """Add the chunks of one layer's, or expert's, part of the tensor."""
        for first, end in row_ranges(tensor.shape):
            offset = torch.Size((*tensor.place, first, *(0 for _ in tensor.shape[1:])))
            size = torch.Size((*(1 for _ in tensor.place), end - first, *tensor.shape[1:]))
            self._chunks[offset] = size, TensorRule(tensor=tensor, segments=())

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(offsets=offset, sizes=size) for offset, (size, _) in self._chunks.items()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        assert index.offset is not None
        size, rule = self._chunks[torch.Size(index.offset)]
        axis = len(rule.tensor.place)
        values = self._weights.read(rule, index.offset[axis], index.offset[axis] + size[axis])
        self._report(values.numel())
        return values.view(size)


def _write_merged(
    directory: Path, weights: NativeWeights, state: TrainerState, *, report: Report
) -> dict[str, FileRecord]:
    pieces: dict[str, ShardedTensorView] = {}
    for tensor in list_native_tensors(state.model_config(), padded_vocab_size=state.padded_vocab_size):
        shape = (*tensor.stacked_shape, *tensor.shape)
        view = pieces.setdefault(WEIGHTS_PREFIX + tensor.key, _MergedView(shape, weights, report))
        assert isinstance(view, _MergedView)
        view.add_tensor(tensor)
    return write_pieces(directory, pieces, ranks=Ranks(is_alone=True))


def _find_bos(tokenizer: Tokenizer | None, weights: NativeWeights) -> int | None:
    """Return the token that begins texts, where there is one."""
    record = read_record(weights.checkpoint)
    found = record.token_ids.get("bos_token_id") if record is not None else None
    return found if found is not None or tokenizer is None else tokenizer.bos_id


def _compare_merged(saved: SavedRun, merged: Path, *, base: Path, bos_id: int | None) -> GateResult:
    """Compare the logits of a merged checkpoint with those of base and adapters, in one process and fp32.

    Where they differ by more than those of most equal models, the rounding of base and adapters is measured.
    """
    state = saved.state
    model, adapters = state.model_config(), SavedAdapters(saved.checkpoint, state)
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=0)
    ids = gate_ids(model, vocab_size=state.vocab_size or state.padded_vocab_size, bos_id=bos_id).to(world.device)

    def compute(*, is_merged: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        (chunk,) = wire_model(
            model,
            parallel=ParallelConfig(),
            precision=PrecisionConfig(params_dtype="fp32"),
            padded_vocab_size=state.padded_vocab_size,
            vocab_size=state.vocab_size,
            world=world,
            lora=None if is_merged else adapters.lora,
        )
        if is_merged:
            load_weights(merged, chunks=[chunk])
        else:
            load_frozen(base, chunks=[chunk])
            adapters.load_into([chunk])
        return logits_of_model(chunk.to(dtype), ids, vocab_size=state.vocab_size).cpu()

    try:
        expected = compute(is_merged=False)
        found = compare_logits(compute(is_merged=True), expected, num_tokens=ids.shape[1])
        if not found.has_passed and found.relative_difference <= MAX_AMPLIFIED_DIFFERENCE:
            exact = compute(is_merged=False, dtype=torch.float64)
            found = replace(found, rounding_error=float((expected - exact).abs().max() / exact.abs().max()))
        return replace(found, other="those of base and adapters")
    finally:
        stop_world()
