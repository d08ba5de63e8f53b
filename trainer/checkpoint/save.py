"""Write a checkpoint directly from the engine's fragments, one file per rank, and commit it atomically."""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.dcp import HashingWriter, PieceSavePlanner
from trainer.checkpoint.directory import begin, commit, retain
from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.checkpoint.pieces import ShardedTensorView, pieces_to_save
from trainer.checkpoint.random_states import collect_random_states
from trainer.checkpoint.trainer_state import STATE_NAME, TrainerState, write_state
from trainer.engine.base import OptimizerFragment
from trireme.errors import ConfigError

_LOGGER = logging.getLogger(__name__)


def save_checkpoint(
    run_directory: Path,
    *,
    fragments: Iterable[OptimizerFragment],
    state: TrainerState,
    keep_last: int,
    keep_interval: int = 0,
    keep_best: int = 0,
    random_states: Mapping[str, torch.Tensor] | None = None,
    further_files: Mapping[str, str | bytes] | None = None,
    process_group: distributed.ProcessGroup | None = None,
) -> Path:
    """Save the engine's state and this rank's random states; all ranks call this; it returns after the commit.

    Args:
        run_directory: the checkpoint becomes `run_directory/checkpoints/step_NNNNNNNN`.
        fragments: `Engine.optimizer_fragments()`.
        state: of the run.
        keep_last, keep_interval, keep_best: which checkpoints remain afterwards, see `retain`.
        random_states: of this rank, from `collect_random_states`; None takes the current ones.
        further_files: additional small files by name; those of rank 0 are written.
        process_group: of all ranks; None takes the default one. It transfers small objects only.
    Returns:
        The new checkpoint.
    Raises:
        CheckpointError: on every rank, if a rank failed; what was written is removed, and older checkpoints stay valid.
    """
    start = time.monotonic()
    ranks = Ranks(process_group)
    doing = f"saving the checkpoint of step {state.step}"
    temporary = ranks.run_on_rank0(lambda: begin(run_directory, step=state.step), doing=doing)
    try:
        # Prepared before torch's first collective: a rank that failed inside it would block the others.
        pieces: dict[str, ShardedTensorView] = {}
        ranks.run_on_all_ranks(
            lambda: pieces.update(pieces_to_save(fragments) | random_state_pieces(random_states, rank=ranks.rank)),
            doing=doing,
        )
        written = ranks.run_on_all_ranks(lambda: write_pieces(temporary, pieces, ranks=ranks), doing=doing)
        files = {name: record for records in written for name, record in records.items()}
        path = ranks.run_on_rank0(
            lambda: _finish(temporary, state=state, files=files, further_files=further_files or {}), doing=doing
        )
    except BaseException:
        if ranks.is_coordinator:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if ranks.is_coordinator:
        retain(run_directory, keep_last=keep_last, keep_interval=keep_interval, keep_best=keep_best)
        megabytes = sum(record.num_bytes for record in files.values()) / 1e6
        _LOGGER.info("Saved %s: %.1f MB in %.2f s.", path, megabytes, time.monotonic() - start)
    return path


def random_state_prefix(rank: int) -> str:
    """Return the prefix of the names of a rank's random states."""
    return f"random_state.{rank:05d}."


def random_state_pieces(states: Mapping[str, torch.Tensor] | None, *, rank: int) -> dict[str, ShardedTensorView]:
    """Return a rank's random states as tensors of a checkpoint; None takes the current ones."""
    pieces = {}
    for name, value in (collect_random_states() if states is None else states).items():
        whole = ShardedTensorView(value.shape, dtype=torch.uint8)
        whole.add((0,), value)
        pieces[random_state_prefix(rank) + name] = whole
    return pieces


def write_pieces(directory: Path, pieces: Mapping[str, ShardedTensorView], *, ranks: Ranks) -> dict[str, FileRecord]:
    """Plan on all ranks, then write this rank's file; rank 0 also writes the table of contents.

    Raises:
        OSError: the disk is full, for example.
        ConfigError: a view cannot provide its values.
    """
    writer = HashingWriter(directory)
    try:
        save(
            dict(pieces),
            storage_writer=writer,
            planner=PieceSavePlanner(),
            process_group=ranks.process_group,
            no_dist=not ranks.is_distributed,
        )
    except CheckpointException as error:
        # torch catches everything, Ctrl-C too.
        cause, _ = error.failures.get(ranks.rank, (None, None))
        if not ranks.is_distributed and (isinstance(cause, ConfigError) or not isinstance(cause, Exception | None)):
            raise cause from None
        if writer.disk_error is not None:
            raise writer.disk_error from error
        raise
    return writer.records


def _finish(
    temporary: Path,
    *,
    state: TrainerState,
    files: dict[str, FileRecord],
    further_files: Mapping[str, str | bytes],
) -> Path:
    for name, content in further_files.items():
        files[name] = write_durably(temporary / name, content)
    files[STATE_NAME] = write_state(temporary, state)
    return commit(
        temporary,
        step=state.step,
        files=files,
        validation_loss=state.validation_loss,
        validation_score=state.validation_score,
        validation_basis=state.validation_basis,
    )
