"""Save checkpoints while a run trains, in the background or in the step, and roll back to an earlier one."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from trainer.checkpoint.adapter_base import lora_record
from trainer.checkpoint.collective import CheckpointError, Ranks
from trainer.checkpoint.directory import abandon_later, checkpoints_directory, retain
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.manifest import MANIFEST_NAME, note_evaluation, note_validation
from trainer.checkpoint.pieces import is_written_here
from trainer.checkpoint.random_states import collect_random_states
from trainer.checkpoint.save import save_checkpoint
from trainer.checkpoint.tokenizer import TokenizerCopy, inherit_files
from trainer.checkpoint.trainer_state import (
    BaseRecord,
    ForkedFrom,
    Layout,
    TrainerState,
    TrainProgress,
    build_state,
)
from trainer.config.derived import DerivedConfig
from trainer.config.load import dump_config
from trainer.config.schema import TrainConfig
from trainer.data.loader import BatchLoader
from trainer.engine.base import Engine, OptimizerFragment
from trainer.run_directory.directory import CONFIG_NAME
from trireme.errors import ConfigError


class HostCopy:
    """Copy fragments into host memory that all saves share; it is pinned if they come from a GPU."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float32)

    @property
    def num_bytes(self) -> int:
        """Size of the host memory."""
        return self._memory.numel() * self._memory.element_size()

    @torch.no_grad()
    def take(self, fragments: Iterable[OptimizerFragment]) -> list[OptimizerFragment]:
        """Copy what this rank writes; this overwrites what an earlier call returned.

        Returns:
            The same fragments in host memory, without those that other ranks write.
        """
        written = [fragment for fragment in fragments if is_written_here(fragment)]
        sources = [values for fragment in written for values in fragment.states.values()]
        num_elements = sum(values.numel() for values in sources)
        is_on_device = any(values.is_cuda for values in sources)
        if self._memory.numel() < num_elements:
            self._memory = torch.empty(0, dtype=torch.float32)  # frees the old memory before the new is allocated
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
"""How long a broken connection is not reported: the exit of another process explains more, and ends this one first."""


@dataclass(frozen=True, kw_only=True)
class ResumeSource:
    """Hold the checkpoint that a run's state comes from."""

    checkpoint: Path | None = None
    """Loaded at the start; None for a new run."""
    forked_from: tuple[ForkedFrom, ...] = ()
    """See `TrainerState.forked_from`."""
    pretrained: Path | None = None
    """Checkpoint whose weights the run started from; None for weights of its own."""
    base: BaseRecord | None = None
    """The checkpoint with the frozen weights beneath the run's adapters; None without adapters."""
    is_rollback: bool = False
    """Whether `resume` names this checkpoint, one of the run's own, for the first time."""


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """Hold what this rank saves; `fragments` raises if it could not be copied."""

    fragments: Callable[[], list[OptimizerFragment]]
    random_states: Mapping[str, torch.Tensor] | None

    def each_fragment(self) -> Iterator[OptimizerFragment]:
        """Yield the fragments; an error is raised only here, where all ranks learn of it."""
        yield from self.fragments()


@dataclass(frozen=True, kw_only=True)
class _Pending:
    step: int
    failure: "Future[str | None]"
    """The reason for a failure; None for a success."""


class CheckpointManager:
    """Save a run in the background or in the step itself; a failed save is logged, and training continues.

    All ranks call every method. At most one save is in progress. Ranks agree through a separate gloo group that no
    other thread uses, so that nothing here gets between the collectives of training.
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
        record: Callable[..., None],
        tokenizer: TokenizerCopy | None = None,
        further_files: Mapping[str, str | bytes] | None = None,
    ) -> None:
        """Create the process group.

        Args:
            origin: its checkpoint is the latest one until the first save.
            progress: of the run at its start.
            record: `EventLog.record`; called from any thread.
            tokenizer: copied into each checkpoint.
            further_files: small files of each checkpoint, by name.
        """
        self._config, self._derived = config, derived
        self._engine, self._loader, self._layout = engine, loader, layout
        self._origin, self._record_event = origin, record
        self._tokenizer = tokenizer
        self._further_files: dict[str, str | bytes] = {CONFIG_NAME: dump_config(config)}
        timeout = timedelta(seconds=config.gloo_timeout_seconds)
        self._group = distributed.new_group(backend="gloo", timeout=timeout)
        self._ranks = Ranks(self._group)
        if self._ranks.is_coordinator:
            self._further_files |= inherit_files(origin.checkpoint or origin.pretrained, tokenizer=tokenizer)
            self._further_files |= tokenizer.files if tokenizer is not None else {}
            self._further_files |= further_files or {}
        self._host_copy = HostCopy()
        self._latest = origin.checkpoint
        self._saved_step: int | None = progress.step or None
        self._pending: _Pending | None = None
        self._validated: TrainProgress | None = None
        """The progress with the validation loss of a step that is still being saved."""
        self._evaluated_step: int | None = None
        """A step that was evaluated while it was still being saved."""
        self._failure: str | None = None

    def save(self, progress: TrainProgress) -> None:
        """Save the current step, unless it is saved already; wait for the previous save first."""
        if self._pending is not None and self.is_saving:
            _LOGGER.info("Waiting for the checkpoint of step %d, which is still being written.", self._pending.step)
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
            daemon=True,  # a process that has to exit immediately does not wait for it
        ).start()

    @property
    def is_saving(self) -> bool:
        """Whether this rank is writing a checkpoint."""
        return self._pending is not None and not self._pending.failure.done()

    def finish(self) -> bool:
        """Wait for the save in progress; return False if the latest save failed."""
        if self._pending is not None:
            self._failure = self._pending.failure.result()
            if self._failure is None:
                self._saved_step = self._pending.step
            self._pending = None
            if self._validated is not None and self._validated.step == self._saved_step:
                self._note_loss(self._validated)
            if self._evaluated_step is not None and self._evaluated_step == self._saved_step:
                self._note_evaluation(self._evaluated_step)
            self._validated = self._evaluated_step = None
        return self._failure is None

    def note_evaluation(self, step: int) -> None:
        """Note in the checkpoint of this step, if there is one, that the evaluation suite has been run."""
        if self._pending is not None and self._pending.step == step:
            self._evaluated_step = step
            if not self.is_saving:
                self.finish()
        elif self._saved_step == step:
            self._note_evaluation(step)

    def _note_evaluation(self, step: int) -> None:
        path = self._own_latest()
        if path is None:
            return
        try:
            note_evaluation(path)
        except (OSError, ConfigError) as error:
            _LOGGER.warning("Failed to note the evaluation of step %d in %s: %s", step, path, error)

    def _own_latest(self) -> Path | None:
        """Return the latest checkpoint on the rank that writes to it, unless it is another run's."""
        path = self._latest
        if not self._ranks.is_coordinator or path is None:
            return None
        return path if path.parent == checkpoints_directory(self._derived.run_directory) else None

    def note_validation(self, progress: TrainProgress) -> None:
        """Store the validation loss in the checkpoint of this step, if there is one; retention keeps the best."""
        if self._pending is not None and self._pending.step == progress.step:
            self._validated = replace(progress)
            if not self.is_saving:
                self.finish()
        elif self._saved_step == progress.step:
            self._note_loss(progress)

    def _note_loss(self, progress: TrainProgress) -> None:
        checkpoint, path = self._config.checkpoint, self._own_latest()
        if path is None or progress.validation_loss is None:
            return
        try:
            note_validation(
                path,
                loss=progress.validation_loss,
                score=progress.validation_score,
                basis=progress.validation_basis,
            )
        except (OSError, ConfigError) as error:
            _LOGGER.warning("Failed to write the validation loss of step %d to %s: %s", progress.step, path, error)
            return
        retain(
            self._derived.run_directory,
            keep_last=checkpoint.keep_last,
            keep_interval=checkpoint.keep_interval,
            keep_best=checkpoint.keep_best,
        )

    def save_last(self, progress: TrainProgress) -> bool:
        """Save the last step, again if an earlier save of it failed; return False if it cannot be saved."""
        self.save(progress)
        if self.finish():
            return True
        _LOGGER.error(
            "The run stops at step %d, which could not be saved: %s. %s",
            progress.step,
            self._failure,
            f"resume=auto resumes from {self._latest}." if self._latest else "There is no checkpoint to resume from.",
        )
        return False

    def roll_back(self, *, at_or_before_step: int) -> TrainerState | None:
        """Load the latest valid checkpoint at or before a step into the running engine; the caller moves the data.

        Checkpoints saved later are set aside, so that no start loads one of a course that the run has left.

        Returns:
            The state that was loaded; None, with nothing changed, if there is no such checkpoint.
        Raises:
            ConfigError: on every rank, if such checkpoints exist and all are damaged.
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
        abandoned = self._ranks.run_on_rank0(lambda: abandon_later(run_directory, than=path), doing=doing)
        for old in abandoned if self._ranks.is_coordinator else []:
            _LOGGER.warning("Renamed a later checkpoint to %s: the run continues from step %d.", old, state.step)
        self._latest, self._saved_step, self._failure = path, state.step, None
        return state

    def _find(self, at_or_before_step: int) -> Path | None:
        """Look among the run's own checkpoints, then at the one that it was started from."""

        def choose(resume: str, run_directory: Path) -> Path | None:
            return choose_checkpoint(
                resume,
                run_directory=run_directory,
                verify=self._config.checkpoint.verify,
                at_or_before_step=at_or_before_step,
                process_group=self._group,
            )

        found, origin = choose("auto", self._derived.run_directory), self._origin.checkpoint
        if found is None and origin is not None and self._exists(origin):
            found = choose(str(origin), origin.parent.parent)
        return found

    def _exists(self, origin: Path) -> bool:
        """Return whether the checkpoint that the run was started from still exists."""
        doing = f"looking for {origin}"
        exists = self._ranks.run_on_rank0(lambda: (origin / MANIFEST_NAME).is_file(), doing=doing)
        if not exists and self._ranks.is_coordinator:
            _LOGGER.warning("%s, the checkpoint that the run was started from, has been deleted.", origin)
        return exists

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
            left_out_samples=self._loader.skipped_samples.to_record(),
            tokenizer=self._tokenizer.record if self._tokenizer is not None else None,
            pretrained_checkpoint=str(self._origin.pretrained) if self._origin.pretrained is not None else None,
            lora=lora_record(self._config.lora) if self._origin.base is not None else None,
            base=self._origin.base,
        )

    def _copy(self) -> _Snapshot:
        """Copy this rank's part; a rank that fails still takes part, so that all ranks learn of it."""
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
        """Write and commit; runs in its own thread if `stall_seconds`, the time of the copy, is given."""
        checkpoint = self._config.checkpoint
        try:
            self._latest = save_checkpoint(
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
            failure.set_result(self._report_failure(str(error), step=state.step))
        except Exception as error:
            if stall_seconds is None:
                raise
            time.sleep(_PATIENCE_SECONDS)
            failure.set_result(self._report_failure(f"{type(error).__name__}: {error}", step=state.step))
        else:
            seconds = time.monotonic() - start
            if self._ranks.is_coordinator:
                self._record_event(
                    "checkpoint_saved",
                    step=state.step,
                    path=str(self._latest),
                    total_seconds=round(seconds, 3),
                    stall_seconds=round(seconds if stall_seconds is None else stall_seconds, 3),
                )
            failure.set_result(None)

    def _report_failure(self, reason: str, *, step: int) -> str:
        if self._ranks.is_coordinator:
            place = checkpoints_directory(self._derived.run_directory)
            _LOGGER.error(
                "Failed to save checkpoint at step %d to %s: %s. Training continues; will retry at the next save. %s",
                step,
                place,
                reason,
                f"Latest checkpoint: {self._latest}" if self._latest else "There is no checkpoint yet.",
            )
            self._record_event("checkpoint_failed", step=step, directory=str(place), reason=reason)
        return reason
