"""Resume a run: load the checkpoint that `resume` names, recall recovery decisions, and record the start."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.checkpoint.adapter_base import (
    LORA_BASE,
    check_adapters,
    check_base_files,
    check_start,
    locate_base,
    record_base,
)
from trainer.checkpoint.adapters import is_adapter
from trainer.checkpoint.changes import Change, find_changes
from trainer.checkpoint.classes import compare_classes
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.compatibility import check_model
from trainer.checkpoint.discovery import choose_at, choose_checkpoint
from trainer.checkpoint.load import load_checkpoint, load_pretrained
from trainer.checkpoint.manager import ResumeSource
from trainer.checkpoint.pretrained import check_contents, check_weights, find_fresh_tensors, find_resumed
from trainer.checkpoint.rollback import RECORD_NAME as ROLLBACK_RECORD
from trainer.checkpoint.rollback import names_own_checkpoint, resume_of_start, roll_back
from trainer.checkpoint.tokenizer import find_config
from trainer.checkpoint.trainer_state import BaseRecord, Layout, TrainerState, TrainProgress, metric_of, read_state
from trainer.config.derived import DerivedConfig
from trainer.config.load import dump_config, load_config_file
from trainer.config.pretrained import PRETRAINED
from trainer.config.schema import TrainConfig
from trainer.data.mixture import Mixture, describe_mixture_change
from trainer.data.sample_ranges import SampleRanges
from trainer.engine.base import Engine
from trainer.loop import recovery_log
from trainer.loop.lr_schedule import learning_rate
from trainer.loop.recovery_log import Replay
from trainer.loop.train_loop import has_stopped_early
from trainer.metrics import jsonl
from trainer.run_directory.directory import is_inside, keep_configuration, rotate_file
from trireme.errors import ConfigError, raise_if_any
from trireme.tokenizer.tokenizer import Tokenizer

_MAX_SHOWN_CHANGES = 20
_LOGGER = logging.getLogger(__name__)


def find_frozen_weights(config: TrainConfig, *, run_directory: Path) -> BaseRecord | None:
    """Find the checkpoint with the weights beneath a run's adapters; None without adapters, or without a checkpoint.

    It is that of the checkpoint to resume from, or else `pretrained_checkpoint`, or what lies beneath the adapters
    there. All ranks call this.

    Raises:
        ConfigError: on every rank, if it is missing or another one.
    """

    def find() -> BaseRecord | None:
        resume = resume_of_start(config.resume, run_directory)
        source = find_resumed(resume, run_directory=run_directory)
        if source is None and config.pretrained_checkpoint is not None:
            source = choose_at(Path(config.pretrained_checkpoint), verify=False, name=PRETRAINED, is_alone=True)
            if read_state(source).base is None:
                return record_base(source, run_directory=run_directory)
        record = read_state(source).base if source is not None else None
        if record is None:
            return None
        given = Path(config.lora.base) if config.lora.base is not None else None
        return record_base(locate_base(record, adapters=source, given=given), run_directory=run_directory)

    if not config.lora.is_on:
        return None
    record = Ranks().run_on_rank0(find, doing="looking for the weights beneath the adapters")
    if record is not None:
        choose_at(Path(record.checkpoint), verify=config.checkpoint.verify, name=LORA_BASE)
    return record


def restore_run(
    config: TrainConfig, *, derived: DerivedConfig, engine: Engine, layout: Layout, base: BaseRecord | None = None
) -> tuple[TrainerState | None, ResumeSource]:
    """Load the checkpoint that `resume` names into the engine; the state is None for a new run.

    Args:
        base: from `find_frozen_weights`, which the model has.
    """
    run_directory = derived.run_directory
    resume = Ranks().run_on_rank0(lambda: resume_of_start(config.resume, run_directory), doing="reading resume")
    if resume != config.resume:
        _LOGGER.info(
            "resume=%s: an earlier start has rolled back to it, so the run resumes from its latest checkpoint. To roll"
            " back again, delete %s.",
            config.resume,
            run_directory / ROLLBACK_RECORD,
        )
    path = choose_checkpoint(resume, run_directory=run_directory, verify=config.checkpoint.verify)
    if path is None:
        pretrained = start_from_pretrained(config, derived=derived, engine=engine)
        return None, ResumeSource(pretrained=pretrained, base=base)
    saved = read_state(path)
    raise_if_any(check_contents(path))
    raise_if_any(check_adapters(config.lora, state=saved, checkpoint=path))
    if saved.base is not None and (base is None or saved.base.sha256 != base.sha256):
        found = Path(base.checkpoint) if base is not None else None
        raise_if_any(check_base_files(saved, adapters=path, given=found, path=LORA_BASE))
    raise_if_any(check_model(config.model, padded_vocab_size=derived.padded_vocab_size, state=saved, checkpoint=path))
    state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
    best = state.best_validation
    former = metric_of(best.basis) if best is not None and best.basis is not None else config.finetune.metric
    if former != config.finetune.metric:
        _LOGGER.warning(
            "finetune.metric was %s until step %d and is %s now: the best validation is searched for anew.",
            former,
            state.step,
            config.finetune.metric,
        )
        state = replace(state, best_validation=None)
    engine.restore(num_updates=state.num_updates, loss_scale=state.loss_scale)
    is_fork = not is_inside(path, run_directory)
    if is_fork and state.seed != config.training.seed:
        _LOGGER.warning(
            "training.seed was %d in the forked run and is %d now: the order of samples changes, and some samples are"
            " seen twice.",
            state.seed,
            config.training.seed,
        )
    origin = ResumeSource(
        checkpoint=path,
        forked_from=state.fork(path) if is_fork else state.forked_from,
        pretrained=Path(state.pretrained_checkpoint) if state.pretrained_checkpoint is not None else None,
        base=base,
        is_rollback=names_own_checkpoint(resume, run_directory),
    )
    return state, origin


def start_from_pretrained(config: TrainConfig, *, derived: DerivedConfig, engine: Engine) -> Path | None:
    """Load the weights of `pretrained_checkpoint` into an engine without steps; return its path, None without one."""
    if config.pretrained_checkpoint is None:
        return None
    path = choose_at(Path(config.pretrained_checkpoint), verify=config.checkpoint.verify, name=PRETRAINED)
    raise_if_any(check_weights(config.model, padded_vocab_size=derived.padded_vocab_size, checkpoint=path))
    raise_if_any(check_start(config.lora, checkpoint=path))
    fragments = engine.optimizer_fragments()
    if config.lora.is_on and read_state(path).base is None:
        # The frozen weights are loaded already, and fresh adapters have no effect.
        fragments = [one for one in fragments if not is_adapter(one.sharded.blocks[0].key)]
    fresh = find_fresh_tensors(config.model, read_state(path).model_config())
    load_pretrained(path, fragments=fragments, fresh=fresh)
    ours, theirs = compare_classes(config.data.train, model=config.model, checkpoint=path)
    if ours != theirs and Ranks().is_coordinator:
        shown = [", ".join(names[:_MAX_SHOWN_CHANGES]) for names in (ours, theirs)]
        _LOGGER.warning("The scores of the classes %s begin as those of %s in %s.", *shown, path)
    engine.restore(num_updates=0)
    return path.resolve()


def has_work(config: TrainConfig, progress: TrainProgress) -> bool:
    """Return whether a start has steps or a validation to do; otherwise the run directory stays as it is."""
    training = config.training
    validates = progress.is_validation_due and bool(config.data.validation) and training.eval_interval > 0
    evaluates = progress.is_evaluation_due and config.evaluation.interval > 0
    has_steps = progress.step < training.last_step and not has_stopped_early(config.finetune, progress)
    return has_steps or validates or evaluates


def record_start(
    config: TrainConfig,
    *,
    derived: DerivedConfig,
    layout: Layout,
    state: TrainerState | None,
    origin: ResumeSource,
    mixture: Mixture,
    skipped_samples: SampleRanges,
    tokenizer: Tokenizer | None,
    record: Callable[..., None],
) -> None:
    """Record a start and the settings that it changes, in the log and in events.jsonl, and write its configuration.

    Rank 0 calls this, for a start that has work to do.

    Args:
        record: `EventLog.record`.

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
        _log_changes(changes, checkpoint=checkpoint)
        if state.mixture is not None:
            former = Mixture.from_record(dict(state.mixture))
            for line in describe_mixture_change(mixture, former=former, consumed_samples=state.consumed_samples):
                _LOGGER.warning("%s", line)
        if origin.is_rollback:
            done = roll_back(run_directory, to=checkpoint)
            renamed = f" Renamed later checkpoints to {', '.join(done.set_aside)}." if done.set_aside else ""
            _LOGGER.warning("resume=%s: rolled back to step %d.%s", config.resume, step, renamed)
            record("rollback", **asdict(done))
    kept = keep_configuration(run_directory, dump_config(config), step=step)
    record(
        "start",
        step=step,
        checkpoint=str(checkpoint) if checkpoint else None,
        forked_from=[asdict(point) for point in origin.forked_from],
        pretrained_checkpoint=str(origin.pretrained) if origin.pretrained is not None else None,
        layout=asdict(layout),
        mixture=mixture.to_record(),
        skipped_samples=skipped_samples.to_record(),
        config=kept,
        changes=[asdict(change) for change in changes],
    )


def _log_changes(changes: Sequence[Change], *, checkpoint: Path) -> None:
    """Log each change that affects training, and all other changes in one line."""
    computed = [change for change in changes if change.changes_training]
    others = [str(change) for change in changes if not change.changes_training]
    for change in computed[:_MAX_SHOWN_CHANGES]:
        _LOGGER.warning("This start changes %s", change)
    if len(computed) > _MAX_SHOWN_CHANGES:
        rest = len(computed) - _MAX_SHOWN_CHANGES
        _LOGGER.warning("This start changes %d more settings; events.jsonl lists them.", rest)
    if others:
        further = ", ..." if len(others) > _MAX_SHOWN_CHANGES else ""
        shown = ", ".join(others[:_MAX_SHOWN_CHANGES])
        _LOGGER.info("Other settings that differ from those of %s: %s%s", checkpoint, shown, further)


def _find_rate_change(config: TrainConfig, changes: Sequence[Change], *, step: int, checkpoint: Path) -> list[Change]:
    """Return the change of the next step's learning rate that changes of schedule, length and peak rate cause."""
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
    """Hold the recovery decisions that a run starts with."""

    log: recovery_log.RecoveryLog
    skipped_samples: SampleRanges
    """Samples that no step reads: those of the checkpoint, of decisions after it was saved, and of recovery.replay."""
    replay: Replay
    """The decisions of the run that recovery.replay names."""


def recall_past(
    config: TrainConfig, *, derived: DerivedConfig, state: TrainerState | None, is_written: bool = True
) -> Past:
    """Read a run's recovery decisions; all ranks call this. Files of a run without a checkpoint are renamed.

    Args:
        is_written: whether new decisions are written; False for a start that has nothing to do.

    Raises:
        ConfigError: on every rank, if recovery.replay names no such file.
    """
    ranks = Ranks()
    path = derived.run_directory / recovery_log.FILE_NAME

    def read() -> tuple[list[dict[str, object]], Replay]:
        if state is None:
            rotate_file(derived.run_directory / jsonl.FILE_NAME)
            rotate_file(path)
        name = config.recovery.replay
        replay = recovery_log.read_replay(name) if name is not None else Replay()
        return recovery_log.read_recovery_log(path), replay

    records, replay = ranks.run_on_rank0(read, doing=f"reading the decisions of {derived.run_directory}")
    log = recovery_log.RecoveryLog(path if ranks.is_coordinator and is_written else None, records=records)
    skipped_samples = replay.skipped_samples
    if state is not None:
        first_sample = state.mixture["first_sample"] if state.mixture is not None else 0
        # If a run ended between a rollback and its next save, only this file records the rollback.
        decided = recovery_log.skipped_samples_of(records, first_sample=first_sample)
        skipped_samples = skipped_samples | decided | SampleRanges.of(state.left_out_samples)
        tried_again = [update.step for update in recovery_log.skipped_updates_of(records) if update.step > state.step]
        if tried_again:
            log.append(recovery_log.RESUMED, step=state.step, to_step=state.step, tried_again=tried_again)
    return Past(log=log, skipped_samples=skipped_samples, replay=replay)
