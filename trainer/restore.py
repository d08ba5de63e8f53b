"""Where a run goes on: the checkpoint that `resume` names, and what the run had decided after saving it."""

import logging
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.agreement import Ranks
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.model_match import check_model, describe_changes
from trainer.checkpoint.run_directory import is_inside, keep_former_file
from trainer.checkpoint.saver import Origin
from trainer.checkpoint.state import Layout, TrainerState, read_state
from trainer.common.errors import raise_if_any
from trainer.config.plan import RunPlan
from trainer.config.schema import TrainConfig
from trainer.data.sample_ranges import SampleRanges
from trainer.engine.base import Engine
from trainer.loop import ledger
from trainer.loop.ledger import Replay
from trainer.metrics import jsonl

_LOGGER = logging.getLogger(__name__)


def restore_run(
    config: TrainConfig, *, plan: RunPlan, engine: Engine, layout: Layout
) -> tuple[TrainerState | None, Origin]:
    """Load the checkpoint that `resume` names into the engine; no state where the run starts anew."""
    path = find_checkpoint(config, plan=plan)
    if path is None:
        return None, Origin()
    state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
    engine.restore(num_updates=state.num_updates, loss_scale=state.loss_scale)
    is_fork = not is_inside(path, plan.run_directory)
    if is_fork and state.seed != config.training.seed:
        _LOGGER.warning(
            "training.seed was %d in the run that is forked and is %d now: samples come in another order, and some"
            " that it has seen are seen again",
            state.seed,
            config.training.seed,
        )
    return state, Origin(checkpoint=path, forked_from=state.fork(path) if is_fork else state.forked_from)


def find_checkpoint(config: TrainConfig, *, plan: RunPlan) -> Path | None:
    """Choose the checkpoint that `resume` names, whose tensors must fit the model; all ranks call this.

    Raises:
        ConfigError: on every rank, when it is another model's, or all candidates are damaged.
    """
    path = choose_checkpoint(config.resume, run_directory=plan.run_directory, verify=config.checkpoint.verify)
    if path is not None:
        saved = read_state(path)
        raise_if_any(check_model(config.model, padded_vocab_size=plan.padded_vocab_size, state=saved, checkpoint=path))
        for change in describe_changes(config.model, state=saved):
            _LOGGER.warning("%s", change)
    return path


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a run has decided."""

    ledger: ledger.Ledger
    left_out: SampleRanges
    """Samples that no step reads: those of the checkpoint, of decisions after it was saved, and of recovery.replay."""
    replay: Replay
    """What recovery.replay says."""


def recall_past(config: TrainConfig, *, plan: RunPlan, state: TrainerState | None) -> Past:
    """Read a run's decisions; all ranks call this. Files of a run that left no checkpoint are put aside.

    Raises:
        ConfigError: on every rank, when recovery.replay names no such file.
    """
    ranks = Ranks()
    path = plan.run_directory / ledger.FILE_NAME

    def read() -> tuple[list[dict[str, object]], Replay]:
        if state is None:
            keep_former_file(plan.run_directory / jsonl.FILE_NAME)
            keep_former_file(path)
        replay = config.recovery.replay
        return ledger.read_ledger(path), ledger.read_replay(replay) if replay is not None else Replay()

    records, replay = ranks.on_coordinator(read, doing=f"reading what {plan.run_directory} has decided")
    book = ledger.Ledger(path if ranks.is_coordinator else None, records=records)
    left_out = replay.left_out
    if state is not None:
        first_sample = state.mixture["first_sample"] if state.mixture is not None else 0
        # A run that ended between going back and its next save knows of that from the file alone.
        decided = ledger.left_out_by(records, first_sample=first_sample)
        left_out = left_out | decided | SampleRanges.of(state.left_out_samples)
        tried_again = [update.step for update in ledger.skipped_updates_of(records) if update.step > state.step]
        if tried_again:
            book.append(ledger.RESUMED, step=state.step, to_step=state.step, tried_again=tried_again)
    return Past(ledger=book, left_out=left_out, replay=replay)
