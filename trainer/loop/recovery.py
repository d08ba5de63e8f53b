"""Goes back to a good checkpoint when training has gone wrong, leaves out the samples of that stretch, and goes on."""

import logging
import math
from dataclasses import asdict, replace
from typing import Any, NoReturn, Protocol

from trainer.checkpoint.trainer_state import TrainerState, TrainProgress
from trainer.config.run import RecoveryConfig
from trainer.data.loader import BatchLoader
from trainer.data.sample_ranges import SampleRanges
from trainer.engine.base import StepResult
from trainer.loop.recovery_log import FILE_NAME, GAVE_UP, ROLLBACK, SKIPPED_UPDATE, WARNING, RecoveryLog, Replay
from trainer.loop.spikes import Anomaly, SpikeDetector, StepTrace, trace_step
from trainer.metrics.record import RollbackMetrics
from trainer.metrics.recorder import MetricsRecorder
from trireme.errors import EXIT_NOT_RECOVERED, RunStopped
from trireme.progress import format_number

_LOGGER = logging.getLogger(__name__)


class Rewinder(Protocol):
    """Puts the engine back; all ranks call it."""

    def go_back(self, *, at_or_before_step: int) -> TrainerState | None:
        """Load the last good checkpoint that is not after a step; None, with nothing changed, when there is none."""
        ...


class Recovery:
    """Judges every step and acts on what is found; all ranks call it alike and come to the same decisions.

    Args:
        replay: what another run decided.
        min_loss_scale: of fp16; while the scale is above it, a gradient that is not finite is part of finding it.
        state: what the checkpoint that was loaded remembers; None for a run that starts anew.
    """

    def __init__(
        self,
        config: RecoveryConfig,
        *,
        min_loss_scale: float,
        rewinder: Rewinder,
        loader: BatchLoader,
        recorder: MetricsRecorder,
        ledger: RecoveryLog,
        replay: Replay,
        state: TrainerState | None,
    ) -> None:
        self._config, self._min_loss_scale = config, min_loss_scale
        self._rewinder, self._loader, self._recorder, self._ledger = rewinder, loader, recorder, ledger
        self._replay = replay
        self._judge = SpikeDetector(config, record=state.judgement if state is not None else None)

    def must_skip(self, *, first_sample: int, end_sample: int) -> bool:
        """Whether the run that is replayed left out the update of the step with these samples."""
        if self._replay.is_cut(first_sample, end_sample):
            self._warn_once(
                "the run of recovery.replay left out the update of a step of which samples %d to %d are a part; this"
                " step's is made: use that run's global_batch_size",
                first_sample,
                end_sample - 1,
            )
        return self._replay.find_skipped(first_sample, end_sample) is not None

    def judge(self, progress: TrainProgress, result: StepResult, *, first_sample: int) -> Anomaly | None:
        """Look at a step.

        Args:
            progress: behind the step.
            first_sample: samples of the global order that were behind when it began.
        Returns:
            What is wrong, if it asks for something to be done.
        """
        replayed = self._replay.find_skipped(first_sample, progress.consumed_samples)
        trace = trace_step(step=progress.step, first_sample=first_sample, loss=result.loss, grad_norm=result.grad_norm)
        if replayed is not None:  # judged as it was judged there
            trace = replace(trace, loss=replayed.loss, grad_norm=replayed.grad_norm)
        is_expected = not result.has_targets or self._finds_scale(result, trace)
        is_broken = result.is_skipped and replayed is None and not is_expected
        finding = self._judge.observe(trace, is_broken=is_broken)
        if not result.has_targets:
            self._warn_once("step %d has no target token: all are masked; its update is skipped", progress.step)
        if result.is_skipped:
            self._ledger.append(
                SKIPPED_UPDATE,
                step=progress.step,
                samples=[[first_sample, progress.consumed_samples]],
                loss=trace.loss,
                grad_norm=trace.grad_norm,
                is_replayed=replayed is not None,
            )
        return finding

    def remember(self, progress: TrainProgress) -> None:
        """Write into progress, which is about to be saved, what the next steps are judged by."""
        progress.judgement = self._judge.to_record()

    def act(self, progress: TrainProgress, finding: Anomaly) -> bool:
        """Say what is wrong, and go back if that is what it takes; progress then says to where.

        Returns:
            Whether the run has gone back.
        Raises:
            RunStopped: it should go back, and cannot, or has done so too often.
        """
        if finding.reaction == "warn":
            self._warn(progress, finding, why="it is not acted on")
            return False
        start, leaves_out = self._implicate(finding)
        num_rollbacks = len(self._ledger.rollbacks(since_step=start.step))
        if num_rollbacks >= self._config.max_rollbacks:
            why = (
                f"the run has gone back {format_number(num_rollbacks, 'time')} and has not got past it;"
                " recovery.max_rollbacks allows more"
            )
            self._give_up(progress, finding, why=why)
        state = self._go_back(start, finding)
        if state is None:
            why = "there is no checkpoint before it to go back to"
            if finding.trouble == "not_finite":
                self._give_up(progress, finding, why=why)
            self._warn(progress, finding, why=why)
            return False
        skipped = self._samples_from(start, progress, behind=state.consumed_samples) if leaves_out else SampleRanges()
        self._tell(progress, finding, to=state, skipped=skipped)
        self._loader.seek(state.consumed_samples, left_out=self._loader.left_out | skipped)
        self._judge = SpikeDetector(self._config, record=state.judgement)
        progress.go_to(state.progress)
        return True

    def _implicate(self, finding: Anomaly) -> tuple[StepTrace, bool]:
        """The first step that must be undone, and whether the samples from there on are left out.

        What is not finite may be a fault of the hardware, which does not come back: the first time the same samples
        are taken again.
        """
        before = self._ledger.rollbacks(since_step=finding.first.step)
        if finding.trouble == "not_finite" and not any(record["trouble"] == finding.trouble for record in before):
            return finding.first, False
        return self._judge.start_of(finding), True

    def _go_back(self, start: StepTrace, finding: Anomaly) -> TrainerState | None:
        """Before all that is implicated; where no checkpoint is so old, before the first bad step."""
        for bound in dict.fromkeys((start.step - 1, finding.first.step - 1)):
            state = self._rewinder.go_back(at_or_before_step=bound)
            if state is not None:
                return state
        return None

    def _tell(self, progress: TrainProgress, finding: Anomaly, *, to: TrainerState, skipped: SampleRanges) -> None:
        """Say that the run has gone back, everywhere."""
        self._ledger.append(
            ROLLBACK,
            step=progress.step,
            trouble=finding.trouble,
            first_step=finding.first.step,
            unusual=_unusual(finding),
            to_step=to.step,
            skipped_samples=skipped.to_record(),
            mixture_first_sample=self._loader.mixture.first_sample,
            left_steps=[asdict(trace) for trace in self._judge.since(to.step)],
        )
        what = f"samples {_ranges(skipped)} are left out" if skipped.ranges else "the same samples are taken again"
        self._warn_once("%s: back to step %d; %s", _describe(finding), to.step, what)
        self._recorder.record_rollback(
            RollbackMetrics(
                step=to.step,
                from_step=progress.step,
                trouble=finding.trouble,
                skipped_samples=skipped.to_record(),
                consumed_samples=to.consumed_samples,
            )
        )

    def _warn_once(self, text: str, *arguments: object) -> None:
        """Warn on one rank: all come to the same."""
        if self._ledger.is_written_here:
            _LOGGER.warning(text, *arguments)

    def _finds_scale(self, result: StepResult, trace: StepTrace) -> bool:
        return trace.loss is not None and result.loss_scale is not None and result.loss_scale > self._min_loss_scale

    def _samples_from(self, start: StepTrace, progress: TrainProgress, *, behind: int) -> SampleRanges:
        """The samples from a step on to the present one and skip_steps_after more, as far as they are still to come."""
        further = self._config.skip_steps_after * self._loader.global_batch_size
        return SampleRanges.of([(max(start.first_sample, behind), progress.consumed_samples + further)])

    def _warn(self, progress: TrainProgress, finding: Anomaly, *, why: str) -> None:
        samples = self._samples_from(self._judge.start_of(finding), progress, behind=0)
        self._warn_once("%s; %s", _describe(finding), why)
        self._ledger.append(
            WARNING,
            step=progress.step,
            trouble=finding.trouble,
            first_step=finding.first.step,
            unusual=_unusual(finding),
            reason=why,
            samples=samples.to_record(),
            left_steps=[asdict(trace) for trace in self._judge.since(finding.first.step - 1)],
        )

    def _give_up(self, progress: TrainProgress, finding: Anomaly, *, why: str) -> NoReturn:
        samples = [[finding.first.first_sample, progress.consumed_samples]]
        self._ledger.append(GAVE_UP, step=progress.step, trouble=finding.trouble, reason=why, samples=samples)
        message = (
            f"the run ends at step {progress.step} without saving it: {_describe(finding)}, and {why}; samples"
            f" {_ranges(SampleRanges.of(samples))}. {FILE_NAME} has what was decided"
        )
        raise RunStopped(message if self._ledger.is_written_here else "", exit_code=EXIT_NOT_RECOVERED)


def _describe(finding: Anomaly) -> str:
    if finding.trouble == "not_finite":
        return f"loss or gradient was not finite in steps {finding.first.step} to {finding.last.step}"
    assert finding.unusual is not None
    what = "the loss" if finding.trouble == "loss_spike" else "the logarithm of the gradient norm"
    unusual = finding.unusual
    return (
        f"{what} has been far above its median since step {finding.first.step}: {unusual.value:.4f} in step"
        f" {finding.last.step}, median {unusual.median:.4f}, score {unusual.score:.1f}"
    )


def _ranges(samples: SampleRanges) -> str:
    return ", ".join(f"{first} to {end - 1}" for first, end in samples.ranges)


def _unusual(finding: Anomaly) -> dict[str, Any] | None:
    """What was found, in numbers that JSON has."""
    if finding.unusual is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in asdict(finding.unusual).items()}
