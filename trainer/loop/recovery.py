"""Roll back to a valid checkpoint when training goes wrong, skip the samples of that stretch, and continue."""

import logging
import math
from dataclasses import asdict, replace
from typing import Any, NoReturn

from trainer.checkpoint.manager import CheckpointManager
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


class Recovery:
    """Check every step for anomalies and act on them; all ranks call it alike and come to the same decisions.

    Args:
        min_loss_scale: of fp16; while the scale is above it, a gradient that is not finite is part of finding it.
        checkpoints: loads an earlier checkpoint into the engine.
        log: receives every decision.
        replay: the decisions of another run that this one repeats.
        state: the loaded checkpoint, with the history of earlier steps; None for a new run.
    """

    def __init__(
        self,
        config: RecoveryConfig,
        *,
        min_loss_scale: float,
        checkpoints: CheckpointManager,
        loader: BatchLoader,
        recorder: MetricsRecorder,
        log: RecoveryLog,
        replay: Replay,
        state: TrainerState | None,
    ) -> None:
        self._config, self._min_loss_scale = config, min_loss_scale
        self._checkpoints, self._loader, self._recorder, self._log = checkpoints, loader, recorder, log
        self._replay = replay
        self._detector = SpikeDetector(config, record=state.judgement if state is not None else None)

    def should_skip_update(self, *, first_sample: int, end_sample: int) -> bool:
        """Return whether the replayed run skipped the update of the step with these samples."""
        if self._replay.is_cut(first_sample, end_sample):
            self._warn_once(
                "The run of recovery.replay skipped the update of a step that contains only part of samples %d to %d;"
                " this step is updated. Set training.global_batch_size to that run's to replay it exactly.",
                first_sample,
                end_sample - 1,
            )
        return self._replay.find_skipped(first_sample, end_sample) is not None

    def find_anomaly(self, progress: TrainProgress, result: StepResult, *, first_sample: int) -> Anomaly | None:
        """Check one step, and log its update if it was skipped.

        Args:
            progress: after the step.
            first_sample: number of samples consumed before the step.
        Returns:
            The anomaly that calls for a warning or a rollback, if there is one.
        """
        replayed = self._replay.find_skipped(first_sample, progress.consumed_samples)
        trace = trace_step(step=progress.step, first_sample=first_sample, loss=result.loss, grad_norm=result.grad_norm)
        if replayed is not None:  # checked with the values of the replayed run, so that both decide alike
            trace = replace(trace, loss=replayed.loss, grad_norm=replayed.grad_norm)
        is_expected = not result.has_targets or self._finds_scale(result, trace)
        is_broken = result.is_skipped and replayed is None and not is_expected
        anomaly = self._detector.observe(trace, is_broken=is_broken)
        if not result.has_targets:
            self._warn_once(
                "Step %d has no target tokens: the loss mask covers all of them. Its update is skipped.", progress.step
            )
        if result.is_skipped:
            self._log.append(
                SKIPPED_UPDATE,
                step=progress.step,
                samples=[[first_sample, progress.consumed_samples]],
                loss=trace.loss,
                grad_norm=trace.grad_norm,
                is_replayed=replayed is not None,
            )
        return anomaly

    def store_history(self, progress: TrainProgress) -> None:
        """Store the detector's history in progress, which is about to be saved."""
        progress.judgement = self._detector.to_record()

    def handle(self, progress: TrainProgress, anomaly: Anomaly) -> bool:
        """Warn of an anomaly or roll back, as configured; after a rollback, progress is that of the checkpoint.

        Returns:
            Whether the run has been rolled back.
        Raises:
            RunStopped: a rollback is required, but impossible or tried too often.
        """
        if anomaly.action == "warn":
            self._warn(progress, anomaly, why="recovery is set to warn only")
            return False
        start, skips_samples = self._find_rollback_start(anomaly)
        num_rollbacks = len(self._log.rollbacks(since_step=start.step))
        if num_rollbacks >= self._config.max_rollbacks:
            why = (
                f"the run has rolled back {format_number(num_rollbacks, 'time')} without getting past it"
                f" (recovery.max_rollbacks={self._config.max_rollbacks})"
            )
            self._give_up(progress, anomaly, why=why)
        state = self._roll_back(start, anomaly)
        if state is None:
            why = "there is no earlier checkpoint to roll back to"
            if anomaly.kind == "not_finite":
                self._give_up(progress, anomaly, why=why)
            self._warn(progress, anomaly, why=why)
            return False
        skipped = self._samples_from(start, progress, after=state.consumed_samples) if skips_samples else SampleRanges()
        self._report_rollback(progress, anomaly, to=state, skipped=skipped)
        self._loader.seek(state.consumed_samples, skipped_samples=self._loader.skipped_samples | skipped)
        self._detector = SpikeDetector(self._config, record=state.judgement)
        progress.go_to(state.progress)
        return True

    def _find_rollback_start(self, anomaly: Anomaly) -> tuple[StepTrace, bool]:
        """Return the first step to undo, and whether the samples from there on are skipped.

        A value that is not finite may be a transient hardware fault: the first time, the same samples are read again.
        """
        before = self._log.rollbacks(since_step=anomaly.first.step)
        if anomaly.kind == "not_finite" and not any(record["trouble"] == anomaly.kind for record in before):
            return anomaly.first, False
        return self._detector.start_of(anomaly), True

    def _roll_back(self, start: StepTrace, anomaly: Anomaly) -> TrainerState | None:
        """Roll back to before `start`; if no checkpoint is that old, to before the first anomalous step."""
        for bound in dict.fromkeys((start.step - 1, anomaly.first.step - 1)):
            state = self._checkpoints.roll_back(at_or_before_step=bound)
            if state is not None:
                return state
        return None

    def _report_rollback(
        self, progress: TrainProgress, anomaly: Anomaly, *, to: TrainerState, skipped: SampleRanges
    ) -> None:
        """Write the rollback to recovery.jsonl, the log and the metrics."""
        self._log.append(
            ROLLBACK,
            step=progress.step,
            trouble=anomaly.kind,
            first_step=anomaly.first.step,
            unusual=_outlier_record(anomaly),
            to_step=to.step,
            skipped_samples=skipped.to_record(),
            mixture_first_sample=self._loader.mixture.first_sample,
            left_steps=[asdict(trace) for trace in self._detector.since(to.step)],
        )
        what = f"Samples {_ranges(skipped)} are skipped." if skipped.ranges else "The same samples are read again."
        self._warn_once("%s. Rolled back to step %d. %s", _describe(anomaly), to.step, what)
        self._recorder.record_rollback(
            RollbackMetrics(
                step=to.step,
                from_step=progress.step,
                trouble=anomaly.kind,
                skipped_samples=skipped.to_record(),
                consumed_samples=to.consumed_samples,
            )
        )

    def _warn_once(self, text: str, *arguments: object) -> None:
        """Warn on one rank: all ranks come to the same decision."""
        if self._log.is_written_here:
            _LOGGER.warning(text, *arguments)

    def _finds_scale(self, result: StepResult, trace: StepTrace) -> bool:
        return trace.loss is not None and result.loss_scale is not None and result.loss_scale > self._min_loss_scale

    def _samples_from(self, start: StepTrace, progress: TrainProgress, *, after: int) -> SampleRanges:
        """Return the samples from a step to skip_steps_after steps after the current one, without those before `after`.

        Args:
            after: number of samples that are consumed already.
        """
        further = self._config.skip_steps_after * self._loader.global_batch_size
        return SampleRanges.of([(max(start.first_sample, after), progress.consumed_samples + further)])

    def _warn(self, progress: TrainProgress, anomaly: Anomaly, *, why: str) -> None:
        samples = self._samples_from(self._detector.start_of(anomaly), progress, after=0)
        self._warn_once("%s. Training continues: %s.", _describe(anomaly), why)
        self._log.append(
            WARNING,
            step=progress.step,
            trouble=anomaly.kind,
            first_step=anomaly.first.step,
            unusual=_outlier_record(anomaly),
            reason=why,
            samples=samples.to_record(),
            left_steps=[asdict(trace) for trace in self._detector.since(anomaly.first.step - 1)],
        )

    def _give_up(self, progress: TrainProgress, anomaly: Anomaly, *, why: str) -> NoReturn:
        samples = [[anomaly.first.first_sample, progress.consumed_samples]]
        self._log.append(GAVE_UP, step=progress.step, trouble=anomaly.kind, reason=why, samples=samples)
        message = (
            f"The run stops at step {progress.step} without saving it. {_describe(anomaly)}, and {why}."
            f" Affected samples: {_ranges(SampleRanges.of(samples))}. {FILE_NAME} lists all decisions."
        )
        raise RunStopped(message if self._log.is_written_here else "", exit_code=EXIT_NOT_RECOVERED)


def _describe(anomaly: Anomaly) -> str:
    """Return the beginning of a sentence, without its period."""
    if anomaly.kind == "not_finite":
        return f"Loss or gradient was not finite in steps {anomaly.first.step} to {anomaly.last.step}"
    assert anomaly.outlier is not None
    what = "The loss" if anomaly.kind == "loss_spike" else "The logarithm of the gradient norm"
    outlier = anomaly.outlier
    return (
        f"{what} has been far above its median since step {anomaly.first.step}: {outlier.value:.4f} in step"
        f" {anomaly.last.step}, median {outlier.median:.4f}, score {outlier.score:.1f}"
    )


def _ranges(samples: SampleRanges) -> str:
    return ", ".join(f"{first} to {end - 1}" for first, end in samples.ranges)


def _outlier_record(anomaly: Anomaly) -> dict[str, Any] | None:
    """Return the outlier in numbers that JSON has."""
    if anomaly.outlier is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in asdict(anomaly.outlier).items()}
