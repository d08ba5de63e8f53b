"""Save a run while it trains: what a checkpoint holds, who writes it when, and what follows when that fails."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import distributed

from trainer.checkpoint.collective import CheckpointError, Ranks
from trainer.checkpoint.directory import abandon_later, checkpoints_directory, retain
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.manifest import MANIFEST_NAME, note_validation_loss
from trainer.checkpoint.pieces import is_written_here
from trainer.checkpoint.save import save_checkpoint
from trainer.checkpoint.tokenizer import TokenizerCopy
from trainer.checkpoint.trainer_state import (
    ForkedFrom,
    Layout,
    TrainerState,
    TrainProgress,
    build_state,
    collect_random_states,
)
from trainer.config.derived import DerivedConfig
from trainer.config.load import dump_config
from trainer.config.schema import TrainConfig
from trainer.data.loader import BatchLoader
from trainer.engine.base import Engine, OptimizerFragment
from trainer.run_directory.directory import CONFIG_NAME
from trireme.errors import ConfigError


class HostCopy:
    """Copies fragments into memory that one save after the other uses again; pinned where they come from a GPU."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float32)

    @property
    def num_bytes(self) -> int:
        """Host memory that is held."""
        return self._memory.numel() * self._memory.element_size()

    @torch.no_grad()
    def take(self, fragments: Iterable[OptimizerFragment]) -> list[OptimizerFragment]:
        """Copy what this rank writes; what an earlier call returned is overwritten.

        Returns:
            The same fragments over host memory, without those that other ranks write.
        """
        written = [fragment for fragment in fragments if is_written_here(fragment)]
        sources = [values for fragment in written for values in fragment.states.values()]
        num_elements = sum(values.numel() for values in sources)
        is_on_device = any(values.is_cuda for values in sources)
        if self._memory.numel() < num_elements:
            self._memory = torch.empty(0, dtype=torch.float32)  # the old memory goes before the new one comes
            self._memory = torch.empty(num_elements, dtype=torch.float32, pin_memory=is_on_device)
        copies = self._memory[:num_elements].split([values.numel() for values in sources])
        for copy, values in zip(copies, sources, strict=True):
            copy.copy_(values, non_blocking=True)
        if is_on_device:
            torch.cuda.current_stream().synchronize()
        remaining = iter(copies)
        return [
            dataclasses.replace(fragment, states={name: next(remaining) for name in fragment.states})
            for fragment in written
        ]


_LOGGER = logging.getLogger(__name__)
_PATIENCE_SECONDS = 5.0
"""How long a broken connection is kept quiet: the death of another process says more, and ends this one sooner."""


class RecordEvent(Protocol):
    """Takes one event of a run, as `EventLog.record` does; any thread may call it."""

    def __call__(self, kind: str, *, step: int, **fields: Any) -> None:
        """Take it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ResumeSource:
    """Where a run's state comes from."""

    checkpoint: Path | None = None
    """What was loaded at the start; None for a run that started anew."""
    forked_from: tuple[ForkedFrom, ...] = ()
    """See `TrainerState.forked_from`."""
    is_rollback: bool = False
    """Whether `resume` has named this checkpoint, one of the run's own, for the first time."""


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """What this rank saves, or why it cannot."""

    fragments: Callable[[], list[OptimizerFragment]]
    random_states: Mapping[str, torch.Tensor] | None

    def each_fragment(self) -> Iterator[OptimizerFragment]:
        """Raise only where all ranks hear of it."""
        yield from self.fragments()


@dataclass(frozen=True, kw_only=True)
class _Pending:
    step: int
    failure: "Future[str | None]"
    """Why it failed; None where it did not."""


class CheckpointManager:
    """Saves a run in the background or in the step itself; a save that fails is told, and training goes on.

    All ranks call every method alike. At most one save is in progress. Ranks agree through a gloo group of its own,
    which no other thread uses, so that nothing here gets between the collectives of training.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        derived: DerivedConfig,
        engine: Engine,
        loader: BatchLoader,
        layout: Layout,
        origin: ResumeSource,
        progress: TrainProgress,
        record: RecordEvent,
        tokenizer: TokenizerCopy | None = None,
    ) -> None:
        """Form the group.

        Args:
            origin: its checkpoint counts as the newest one.
            progress: where the run stands.
            record: takes what happened.
            tokenizer: that each checkpoint gets a copy of.
        """
        self._config, self._derived = config, derived
        self._engine, self._loader, self._layout = engine, loader, layout
        self._origin, self._record = origin, record
        self._tokenizer = tokenizer
        self._further_files: dict[str, str | bytes] = {CONFIG_NAME: dump_config(config)}
        self._further_files |= tokenizer.files if tokenizer is not None else {}
        timeout = timedelta(seconds=config.gloo_timeout_seconds)
        self._group = distributed.new_group(backend="gloo", timeout=timeout)
        self._ranks = Ranks(self._group)
        self._host_copy = HostCopy()
        self._newest = origin.checkpoint
        self._saved_step: int | None = progress.step or None
        self._pending: _Pending | None = None
        self._validated: TrainProgress | None = None
        """Of a step that is still being saved."""
        self._failure: str | None = None

    def save(self, progress: TrainProgress) -> None:
        """Save where the run stands, unless that is saved; first waits for the save before."""
        if self._pending is not None and self.is_saving:
            _LOGGER.info("waiting for the checkpoint of step %d, which is still being written", self._pending.step)
        self.finish()
        if progress.step == self._saved_step:
            return
        start = time.monotonic()
        state = self._describe(progress)
        self._pending = _Pending(step=state.step, failure=Future())
        if not self._config.checkpoint.async_save:
            snapshot = _Snapshot(fragments=self._engine.optimizer_fragments, random_states=None)
            self._write(self._pending.failure, state=state, snapshot=snapshot, start=start, stall_seconds=None)
            self.finish()
            return
        snapshot = self._copy()
        stall_seconds = time.monotonic() - start
        threading.Thread(
            target=self._write,
            name=f"checkpoint of step {state.step}",
            args=(self._pending.failure,),
            kwargs={"state": state, "snapshot": snapshot, "start": start, "stall_seconds": stall_seconds},
            daemon=True,  # a process that must leave at once does not wait for it
        ).start()

    @property
    def is_saving(self) -> bool:
        """Whether a save is being written on this rank."""
        return self._pending is not None and not self._pending.failure.done()

    def finish(self) -> bool:
        """Wait for the save in progress; False when the newest save failed."""
        if self._pending is not None:
            self._failure = self._pending.failure.result()
            if self._failure is None:
                self._saved_step = self._pending.step
            self._pending = None
            if self._validated is not None and self._validated.step == self._saved_step:
                self._note_loss(self._validated)
            self._validated = None
        return self._failure is None

    def note_validation(self, progress: TrainProgress) -> None:
        """Have the checkpoint of this step, if there is one, know the loss of its weights; retention keeps the best."""
        if self._pending is not None and self._pending.step == progress.step:
            self._validated = replace(progress)
            if not self.is_saving:
                self.finish()
        elif self._saved_step == progress.step:
            self._note_loss(progress)

    def _note_loss(self, progress: TrainProgress) -> None:
        checkpoint, path = self._config.checkpoint, self._newest
        if not self._ranks.is_coordinator or path is None or progress.validation_loss is None:
            return
        if path.parent != checkpoints_directory(self._derived.run_directory):
            return  # of another run, which this one started from
        try:
            note_validation_loss(path, progress.validation_loss)
        except (OSError, ConfigError) as error:
            _LOGGER.warning("could not write the validation loss of step %d to %s: %s", progress.step, path, error)
            return
        retain(
            self._derived.run_directory,
            keep_last=checkpoint.keep_last,
            keep_interval=checkpoint.keep_interval,
            keep_best=checkpoint.keep_best,
        )

    def save_last(self, progress: TrainProgress) -> bool:
        """Save where the run ends, once more if that failed before; False when it cannot be saved."""
        self.save(progress)
        if self.finish():
            return True
        _LOGGER.error(
            "the run ends at step %d without having saved it (%s); %s",
            progress.step,
            self._failure,
            f"resume=auto goes on from {self._newest}" if self._newest else "there is no checkpoint to go on from",
        )
        return False

    def go_back(self, *, at_or_before_step: int) -> TrainerState | None:
        """Load the last good checkpoint that is not after a step into the running engine; the caller moves the data.

        Checkpoints saved later are set aside, so that no start chooses one whose past this run no longer has.

        Returns:
            Where the run stands now; None, with nothing changed, when there is no such checkpoint.
        Raises:
            ConfigError: on every rank, when there are some, and all are damaged.
        """
        self.finish()
        path = self._find(at_or_before_step)
        if path is None:
            return None
        state = load_checkpoint(
            path, fragments=self._engine.optimizer_fragments(), layout=self._layout, process_group=self._group
        )
        self._engine.restore(num_updates=state.num_updates, loss_scale=state.loss_scale)
        run_directory = self._derived.run_directory
        doing = f"setting aside what was saved after {path}"
        abandoned = self._ranks.on_coordinator(lambda: abandon_later(run_directory, than=path), doing=doing)
        for old in abandoned if self._ranks.is_coordinator else []:
            _LOGGER.warning("%s is set aside: the run goes on from step %d", old, state.step)
        self._newest, self._saved_step, self._failure = path, state.step, None
        return state

    def _find(self, at_or_before_step: int) -> Path | None:
        """Look among the run's own, then at what it started from."""

        def choose(resume: str, run_directory: Path) -> Path | None:
            return choose_checkpoint(
                resume,
                run_directory=run_directory,
                verify=self._config.checkpoint.verify,
                at_or_before_step=at_or_before_step,
                process_group=self._group,
            )

        found, origin = choose("auto", self._derived.run_directory), self._origin.checkpoint
        if found is None and origin is not None and self._is_there(origin):
            found = choose(str(origin), origin.parent.parent)
        return found

    def _is_there(self, origin: Path) -> bool:
        """Whether what the run started from has not been deleted since."""
        doing = f"looking for {origin}"
        is_there = self._ranks.on_coordinator(lambda: (origin / MANIFEST_NAME).is_file(), doing=doing)
        if not is_there and self._ranks.is_coordinator:
            _LOGGER.warning("%s, which the run started from, has been deleted", origin)
        return is_there

    def _describe(self, progress: TrainProgress) -> TrainerState:
        return build_state(
            self._config.model,
            padded_vocab_size=self._derived.padded_vocab_size,
            layout=self._layout,
            run_name=self._config.run_name,
            progress=progress,
            num_updates=self._engine.num_updates,
            seed=self._config.training.seed,
            mixture=self._loader.mixture.to_record(),
            loss_scale=self._engine.loss_scale,
            forked_from=self._origin.forked_from,
            left_out_samples=self._loader.left_out.to_record(),
            tokenizer=self._tokenizer.record if self._tokenizer is not None else None,
        )

    def _copy(self) -> _Snapshot:
        """Copy this rank's part; a rank that cannot still takes part, so that all hear of it."""
        try:
            copies = self._host_copy.take(self._engine.optimizer_fragments())
            return _Snapshot(fragments=lambda: copies, random_states=collect_random_states())
        except Exception as error:
            reason = error

            def fail() -> list[OptimizerFragment]:
                raise reason

            return _Snapshot(fragments=fail, random_states={})

    def _write(
        self,
        failure: "Future[str | None]",
        *,
        state: TrainerState,
        snapshot: _Snapshot,
        start: float,
        stall_seconds: float | None,
    ) -> None:
        """Write and commit; runs in a thread of its own when `stall_seconds`, the time of copying, is given."""
        checkpoint = self._config.checkpoint
        try:
            self._newest = save_checkpoint(
                self._derived.run_directory,
                fragments=snapshot.each_fragment(),
                state=state,
                keep_last=checkpoint.keep_last,
                keep_interval=checkpoint.keep_interval,
                keep_best=checkpoint.keep_best,
                random_states=snapshot.random_states,
                further_files=self._further_files,
                process_group=self._group,
            )
        except (CheckpointError, ConfigError) as error:
            failure.set_result(self._tell_failure(str(error), step=state.step))
        except Exception as error:
            if stall_seconds is None:
                raise
            time.sleep(_PATIENCE_SECONDS)
            failure.set_result(self._tell_failure(f"{type(error).__name__}: {error}", step=state.step))
        else:
            seconds = time.monotonic() - start
            if self._ranks.is_coordinator:
                self._record(
                    "checkpoint_saved",
                    step=state.step,
                    path=str(self._newest),
                    total_seconds=round(seconds, 3),
                    stall_seconds=round(seconds if stall_seconds is None else stall_seconds, 3),
                )
            failure.set_result(None)

    def _tell_failure(self, reason: str, *, step: int) -> str:
        if self._ranks.is_coordinator:
            place = checkpoints_directory(self._derived.run_directory)
            _LOGGER.error(
                "THE CHECKPOINT OF STEP %d IS NOT SAVED in %s: %s. Training goes on, and the next save tries again; %s",
                step,
                place,
                reason,
                f"the newest checkpoint is {self._newest}" if self._newest else "there is no checkpoint yet",
            )
            self._record("checkpoint_failed", step=step, directory=str(place), reason=reason)
        return reason
