"""Where a run goes on: the checkpoint that `resume` names, and what the run had decided after saving it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.checkpoint.changes import Change, find_changes
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.compatibility import check_model
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.manager import RecordEvent, ResumeSource
from trainer.checkpoint.rollback import RECORD_NAME as ROLLBACK_RECORD
from trainer.checkpoint.rollback import names_own_checkpoint, resume_of_start, roll_back
from trainer.checkpoint.tokenizer import find_config
from trainer.checkpoint.trainer_state import Layout, TrainerState, TrainProgress, read_state
from trainer.config.derived import DerivedConfig
from trainer.config.load import dump_config, load_config_file
from trainer.config.schema import TrainConfig
from trainer.data.mixture import Mixture, describe_mixture_change
from trainer.data.sample_ranges import SampleRanges
from trainer.engine.base import Engine
from trainer.loop import recovery_log
from trainer.loop.lr_schedule import learning_rate
from trainer.loop.recovery_log import Replay
from trainer.metrics import jsonl
from trainer.run_directory.directory import is_inside, keep_configuration, rotate_file
from trireme.errors import ConfigError, raise_if_any
from trireme.tokenizer.tokenizer import Tokenizer

_MOST_CHANGES_TOLD = 20
_LOGGER = logging.getLogger(__name__)


def restore_run(
    config: TrainConfig, *, derived: DerivedConfig, engine: Engine, layout: Layout
) -> tuple[TrainerState | None, ResumeSource]:
    """Load the checkpoint that `resume` names into the engine; no state where the run starts anew."""
    run_directory = derived.run_directory
    resume = Ranks().on_coordinator(lambda: resume_of_start(config.resume, run_directory), doing="reading resume")
    if resume != config.resume:
        _LOGGER.info(
            "resume=%s: an earlier start went back to it, so the run resumes from its newest checkpoint; to go"
            " back once more, delete %s",
            config.resume,
            run_directory / ROLLBACK_RECORD,
        )
    path = choose_checkpoint(resume, run_directory=run_directory, verify=config.checkpoint.verify)
    if path is None:
        return None, ResumeSource()
    saved = read_state(path)
    raise_if_any(check_model(config.model, padded_vocab_size=derived.padded_vocab_size, state=saved, checkpoint=path))
    state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
    engine.restore(num_updates=state.num_updates, loss_scale=state.loss_scale)
    is_fork = not is_inside(path, run_directory)
    if is_fork and state.seed != config.training.seed:
        _LOGGER.warning(
            "training.seed was %d in the run that is forked and is %d now: samples come in another order, and some"
            " that it has seen are seen again",
            state.seed,
            config.training.seed,
        )
    origin = ResumeSource(
        checkpoint=path,
        forked_from=state.fork(path) if is_fork else state.forked_from,
        is_rollback=names_own_checkpoint(resume, run_directory),
    )
    return state, origin


def has_work(config: TrainConfig, progress: TrainProgress) -> bool:
    """Whether a start does anything; one that does not leaves the run directory as it is."""
    training = config.training
    validates = progress.is_validation_due and bool(config.data.validation) and training.eval_interval > 0
    return progress.step < training.last_step or validates


def record_start(
    config: TrainConfig,
    *,
    derived: DerivedConfig,
    layout: Layout,
    state: TrainerState | None,
    origin: ResumeSource,
    mixture: Mixture,
    tokenizer: Tokenizer | None,
    record: RecordEvent,
) -> None:
    """Tell what a start is and what it changes, on the console and in events.jsonl; keep its configuration.

    Rank 0 calls this, for a start that does something.

    Raises:
        OSError: a file cannot be written.
    """
    step, checkpoint, run_directory = state.step if state is not None else 0, origin.checkpoint, derived.run_directory
    changes: list[Change] = []
    if state is not None and checkpoint is not None:
        sha256 = tokenizer.sha256 if tokenizer is not None else None
        changes = find_changes(
            config, state=state, checkpoint=checkpoint, vocab_size=derived.vocab_size, tokenizer_sha256=sha256
        )
        changes += _find_rate_change(config, changes, step=step, checkpoint=checkpoint)
        _tell_changes(changes, checkpoint=checkpoint)
        if state.mixture is not None:
            former = Mixture.from_record(dict(state.mixture))
            for told in describe_mixture_change(mixture, former=former, consumed_samples=state.consumed_samples):
                _LOGGER.warning("%s", told)
        if origin.is_rollback:
            done = roll_back(run_directory, to=checkpoint)
            aside = f"; what was saved later is set aside as {', '.join(done.set_aside)}" if done.set_aside else ""
            _LOGGER.warning("resume=%s: the run goes back to step %d%s", config.resume, step, aside)
            record("rollback", **asdict(done))
    kept = keep_configuration(run_directory, dump_config(config), step=step)
    record(
        "start",
        step=step,
        checkpoint=str(checkpoint) if checkpoint else None,
        forked_from=[asdict(point) for point in origin.forked_from],
        layout=asdict(layout),
        mixture=mixture.to_record(),
        config=kept,
        changes=[asdict(change) for change in changes],
    )


def _tell_changes(changes: Sequence[Change], *, checkpoint: Path) -> None:
    """Name each change of what is computed, and all others in one line."""
    computed = [change for change in changes if change.changes_training]
    others = [str(change) for change in changes if not change.changes_training]
    for change in computed[:_MOST_CHANGES_TOLD]:
        _LOGGER.warning("this start changes %s", change)
    if len(computed) > _MOST_CHANGES_TOLD:
        rest = len(computed) - _MOST_CHANGES_TOLD
        _LOGGER.warning("this start changes %d more settings; events.jsonl lists them", rest)
    if others:
        further = ", ..." if len(others) > _MOST_CHANGES_TOLD else ""
        told = ", ".join(others[:_MOST_CHANGES_TOLD])
        _LOGGER.info("other settings that differ from those of %s: %s%s", checkpoint, told, further)


def _find_rate_change(config: TrainConfig, changes: Sequence[Change], *, step: int, checkpoint: Path) -> list[Change]:
    """What the changes of schedule, length and rate make of the learning rate of the next step."""
    causes = ("optimizer.lr", "lr_schedule.", "training.train_iters")
    config_file = find_config(checkpoint)
    if config_file is None or not any(change.path.startswith(causes) for change in changes):
        return []
    try:
        former = load_config_file(config_file)
    except ConfigError:  # of another version
        return []
    old, new = (
        learning_rate(step, peak=one.optimizer.lr, schedule=one.lr_schedule, train_iters=one.training.train_iters)
        for one in (former, config)
    )
    path = f"optimizer.lr of step {step + 1}"
    return [Change(path=path, old=float(f"{old:.6g}"), new=float(f"{new:.6g}"))] if old != new else []


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a run has decided."""

    ledger: recovery_log.RecoveryLog
    left_out: SampleRanges
    """Samples that no step reads: those of the checkpoint, of decisions after it was saved, and of recovery.replay."""
    replay: Replay
    """What recovery.replay says."""


def recall_past(
    config: TrainConfig, *, derived: DerivedConfig, state: TrainerState | None, is_written: bool = True
) -> Past:
    """Read a run's decisions; all ranks call this. Files of a run that left no checkpoint are put aside.

    Args:
        is_written: whether further decisions are; not so for a start that does nothing.

    Raises:
        ConfigError: on every rank, when recovery.replay names no such file.
    """
    ranks = Ranks()
    path = derived.run_directory / recovery_log.FILE_NAME

    def read() -> tuple[list[dict[str, object]], Replay]:
        if state is None:
            rotate_file(derived.run_directory / jsonl.FILE_NAME)
            rotate_file(path)
        replay = config.recovery.replay
        return recovery_log.read_recovery_log(path), recovery_log.read_replay(
            replay
        ) if replay is not None else Replay()

    records, replay = ranks.on_coordinator(read, doing=f"reading what {derived.run_directory} has decided")
    book = recovery_log.RecoveryLog(path if ranks.is_coordinator and is_written else None, records=records)
    left_out = replay.left_out
    if state is not None:
        first_sample = state.mixture["first_sample"] if state.mixture is not None else 0
        # A run that ended between going back and its next save knows of that from the file alone.
        decided = recovery_log.skipped_samples_of(records, first_sample=first_sample)
        left_out = left_out | decided | SampleRanges.of(state.left_out_samples)
        tried_again = [update.step for update in recovery_log.skipped_updates_of(records) if update.step > state.step]
        if tried_again:
            book.append(recovery_log.RESUMED, step=state.step, to_step=state.step, tried_again=tried_again)
    return Past(ledger=book, left_out=left_out, replay=replay)
