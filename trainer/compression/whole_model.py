"""Load a checkpoint's whole model in fp32 into this process, to quantize or prune it, and write the result as a run."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from trainer.build import wire_model
from trainer.checkpoint.directory import begin, checkpoints_directory, commit
from trainer.checkpoint.load import load_weights
from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.checkpoint.tokenizer import copy_tokenizer, inherit_files
from trainer.checkpoint.trainer_state import ORIGIN_NAME, STATE_NAME, write_state
from trainer.config.load import dump_config
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.run import TokenizerConfig
from trainer.config.schema import TrainConfig
from trainer.huggingface.importing import check_run_directory, state_of_import
from trainer.huggingface.output_directory import created_directory, deleted_on_failure, write_errors_explained
from trainer.model.finite import find_not_finite, join_first
from trainer.model.gpt import GPT
from trainer.parallel.world import World, start_world, stop_world
from trainer.run_directory.directory import CONFIG_NAME
from trainer.saved_run import SavedRun
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer


@contextlib.contextmanager
def one_process() -> Iterator[World]:
    """Open a world of this process alone."""
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=0)
    try:
        yield world
    finally:
        stop_world()


def build_whole(model: ModelConfig, saved: SavedRun, *, world: World) -> GPT:
    """Build a model with the vocabulary of a saved one, in fp32 and evaluation mode, with initial weights."""
    (chunk,) = wire_model(
        model,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(params_dtype="fp32"),
        padded_vocab_size=saved.state.padded_vocab_size,
        vocab_size=saved.state.vocab_size,
        world=world,
    )
    assert isinstance(chunk, GPT)
    return chunk.eval()


def load_whole(saved: SavedRun, *, world: World, base: Path | None = None) -> GPT:
    """Load a checkpoint's model in fp32.

    Args:
        base: where the base checkpoint of adapters is; None takes the path that they name.
    Raises:
        ConfigError: the base checkpoint is missing, or weights are not finite.
    """
    model = build_whole(saved.state.model_config(), saved, world=world)
    load_weights(saved.checkpoint, chunks=[model], base=base, base_name="--base")
    if damage := find_not_finite([model]):
        message = f"cannot be compressed: its weights contain {join_first(damage)}"
        fix = "Use an older checkpoint of the run."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    return model


def write_run(
    saved: SavedRun,
    output: Path,
    *,
    model: ModelConfig,
    write_weights: Callable[[Path], Mapping[str, FileRecord]],
    keeps_origin: bool,
    further: Mapping[str, str] | None = None,
) -> Path:
    """Write a run directory with one checkpoint of weights, of step 0; nothing is left where it fails.

    Args:
        saved: what the weights come from; the tokenizer and the files beside it are copied.
        output: the run directory; it must have no checkpoints.
        model: of the written weights.
        write_weights: writes the weights into the directory of the unfinished checkpoint.
        keeps_origin: copy the record of an import, which a model of another shape no longer fits.
        further: contents of further small files by name.
    Returns:
        The checkpoint.
    Raises:
        ConfigError: the directory has checkpoints, or cannot be written.
        RunStopped: the disk is full.
    """
    check_run_directory(output)
    tokenizer = Tokenizer(saved.tokenizer_path) if saved.tokenizer_path is not None else None
    copy = copy_tokenizer(tokenizer) if tokenizer is not None else None
    state = state_of_import(model, output, padded_vocab_size=saved.state.padded_vocab_size, copy=copy)
    inherited = inherit_files(saved.checkpoint, tokenizer=copy, keeps_task=True)
    if not keeps_origin:
        inherited = {name: content for name, content in inherited.items() if name != ORIGIN_NAME}
    config = TrainConfig(
        model=model,
        run_name=output.resolve().name,
        output_dir=str(output.resolve().parent),
        tokenizer=TokenizerConfig(path=str(saved.tokenizer_path) if saved.tokenizer_path is not None else None),
    )
    contents: dict[str, str | bytes] = {
        **inherited,
        **(copy.files if copy is not None else {}),
        **(further or {}),
        CONFIG_NAME: dump_config(config),
    }
    with created_directory(checkpoints_directory(output), output=output), write_errors_explained(output):
        temporary = begin(output, step=0)
        with deleted_on_failure(temporary), write_errors_explained(output):
            files = dict(write_weights(temporary))
            files |= {name: write_durably(temporary / name, content) for name, content in contents.items()}
            files[STATE_NAME] = write_state(temporary, replace(state, seed=saved.state.seed))
            return commit(temporary, step=0, files=files)
