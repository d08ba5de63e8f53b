"""Load a checkpoint into any layout: each rank reads the stored chunks that overlap its own."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.checkpoint.adapter_base import LORA_BASE, locate_base
from trainer.checkpoint.adapters import SavedAdapters
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.dcp import SafeReader, read_pieces
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.pieces import WEIGHTS_PREFIX, ShardedTensorView, pieces_to_load, weights_to_load
from trainer.checkpoint.quantized import QuantizedFile, is_quantized
from trainer.checkpoint.random_states import reseed, restore_random_states
from trainer.checkpoint.save import random_state_prefix
from trainer.checkpoint.trainer_state import Layout, TrainerState, read_state, update_best
from trainer.engine.base import OptimizerFragment
from trainer.model.sharding import ShardedParameter, describe_buffers, describe_frozen, describe_parameters

_LOGGER = logging.getLogger(__name__)


def load_checkpoint(
    path: Path,
    *,
    fragments: Iterable[OptimizerFragment],
    layout: Layout,
    process_group: distributed.ProcessGroup | None = None,
) -> TrainerState:
    """Load the engine's fragments in place and restore the random states; all ranks call this.

    The caller then calls `Engine.restore(num_updates=...)`, which makes the fragments the weights of the model.

    Args:
        path: from `choose_checkpoint`, which has verified it.
        fragments: `Engine.optimizer_fragments()`.
        layout: of this run. Under the layout of the save, random states continue bit for bit; under another one they
            are drawn anew from (seed, step).
        process_group: of all ranks; None takes the default one.
    Returns:
        The state of the saved run.
    Raises:
        ConfigError: on every rank, if a tensor is missing or has another shape, or a file is damaged.
        CheckpointError: on every rank, if a rank failed for another reason.
    """
    ranks = Ranks(process_group)
    state = ranks.run_on_rank0(lambda: _read_state(path), doing=f"loading {path}")
    keeps_streams = layout.has_random_streams_of(state.layout)

    def read() -> None:
        read_pieces(path, pieces_to_load(fragments))
        if keeps_streams:
            restore_random_states(_read_random_states(path, rank=ranks.rank))
        else:
            reseed(seed=state.seed, step=state.step)

    ranks.run_on_all_ranks(read, doing=f"loading {path}")
    if ranks.is_coordinator:
        _LOGGER.info("Loaded %s: step %d, saved with %s.", path, state.step, state.layout)
        if not keeps_streams:
            _LOGGER.info("The layout has changed: dropout continues with new random states from (seed, step).")
    return state


def load_pretrained(
    path: Path,
    *,
    fragments: Iterable[OptimizerFragment],
    fresh: Sequence[str] = (),
    process_group: distributed.ProcessGroup | None = None,
) -> TrainerState:
    """Load only the weights of a checkpoint into the engine's fragments; moments and random states stay fresh.

    All ranks call this; the caller then calls `Engine.restore(num_updates=0)`.

    Args:
        path: a checkpoint of any layout and engine, with or without optimizer state.
        fragments: `Engine.optimizer_fragments()` of an engine that has taken no step.
        fresh: beginnings of the names of tensors that keep their initial values.
    Raises:
        ConfigError: on every rank, if a tensor is missing or has another shape, or a file is damaged.
        CheckpointError: on every rank, if a rank failed for another reason.
    """
    ranks = Ranks(process_group)
    state = ranks.run_on_rank0(lambda: read_state(path), doing=f"loading {path}")
    kept = tuple(WEIGHTS_PREFIX + name for name in fresh)

    def read() -> None:
        pieces = pieces_to_load(fragments, states=("param",))
        read_pieces(path, {key: piece for key, piece in pieces.items() if not key.startswith(kept)})

    ranks.run_on_all_ranks(read, doing=f"loading {path}")
    if ranks.is_coordinator:
        _LOGGER.info("Loaded the weights of %s: step %d of %s.", path, state.step, state.run_name)
        if fresh:
            names = ", ".join(f"{name}*" if name.endswith(".") else name for name in fresh)
            _LOGGER.info("It has no weights for this head: %s begin with random values.", names)
    return state


def load_weights(
    path: Path,
    *,
    chunks: Sequence[nn.Module],
    base: Path | None = None,
    base_name: str = LORA_BASE,
    process_group: distributed.ProcessGroup | None = None,
) -> TrainerState:
    """Load the parameters of model chunks from a checkpoint's fp32 weights, cast to their own data type.

    Needs neither an engine nor the checkpoint's optimizer state; all ranks that hold the model call this. Adapters are
    added to the weights of their base checkpoint, and quantized weights are dequantized.

    Args:
        path: of the checkpoint.
        chunks: without adapters.
        base: where the base checkpoint of adapters is; None takes the path that they name.
        base_name: the user's name of `base`, for messages.
        process_group: of these ranks; None takes the default one.
    Raises:
        ConfigError: on every rank, if a tensor is missing or has another shape, or a file is damaged.
        CheckpointError: on every rank, if a rank failed for another reason.
    """
    ranks = Ranks(process_group)
    state = ranks.run_on_rank0(lambda: read_state(path), doing=f"loading {path}")
    parameters = [*describe_parameters(chunks), *describe_buffers(chunks)]

    def read() -> None:
        if state.base is None:
            _read_parameters(path, parameters)
            return
        adapters = SavedAdapters(path, state)
        beneath = [one for one in parameters if one.blocks[0].key not in adapters.whole]
        _read_parameters(locate_base(state.base, adapters=path, given=base, path=base_name), beneath)
        adapters.merge_into(parameters)

    ranks.run_on_all_ranks(read, doing=f"loading {path}")
    return state


def load_frozen(
    path: Path, *, chunks: Sequence[nn.Module], process_group: distributed.ProcessGroup | None = None
) -> None:
    """Load the frozen weights of model chunks with adapters from a checkpoint of all weights; all ranks call this.

    Before an engine holds the chunks: ZeRO-3 takes every weight apart.

    Raises:
        ConfigError: on every rank, if a tensor is missing or has another shape, or a file is damaged.
        CheckpointError: on every rank, if a rank failed for another reason.
    """
    ranks = Ranks(process_group)
    frozen = [*describe_frozen(chunks), *describe_buffers(chunks)]
    ranks.run_on_all_ranks(lambda: _read_parameters(path, frozen), doing=f"loading {path}")
    if ranks.is_coordinator:
        _LOGGER.info("Loaded the frozen weights of %s.", path)


def _read_parameters(path: Path, parameters: Sequence[ShardedParameter]) -> None:
    if is_quantized(path):
        QuantizedFile(path).load(parameters)
    else:
        read_pieces(path, weights_to_load(parameters))


def _read_state(path: Path) -> TrainerState:
    """Read the saved state, with the result of the validation that was added after the save."""
    state, manifest = read_state(path), read_manifest(path)
    loss, score, best = manifest.validation_loss, manifest.validation_score, state.best_validation
    if state.is_validation_due and loss is not None:
        best = update_best(best, step=state.step, loss=loss, score=score, basis=manifest.validation_basis)
    return replace(
        state,
        validation_loss=loss,
        validation_score=score,
        validation_basis=manifest.validation_basis,
        best_validation=best,
        is_validation_due=state.is_validation_due and loss is None,
        is_evaluation_due=state.is_evaluation_due and not manifest.is_evaluated,
    )


def _read_random_states(path: Path, *, rank: int) -> dict[str, torch.Tensor]:
    prefix = random_state_prefix(rank)
    contents = SafeReader(path).read_metadata().state_dict_metadata
    states: dict[str, torch.Tensor] = {}
    pieces: dict[str, ShardedTensorView] = {}
    for key, entry in contents.items():
        if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata):
            value = torch.empty(entry.size, dtype=torch.uint8)
            states[key.removeprefix(prefix)] = value
            pieces[key] = ShardedTensorView(entry.size, dtype=torch.uint8)
            pieces[key].add((0,), value)
    read_pieces(path, pieces)
    return states
