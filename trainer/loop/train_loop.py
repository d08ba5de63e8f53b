"""What happens each step, and when: the training loop."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import distributed

from trainer.checkpoint.trainer_state import TrainProgress
from trainer.config.optim import LrScheduleConfig
from trainer.config.run import CheckpointConfig, TrainingConfig
from trainer.data.loader import BatchLoader
from trainer.data.micro_batch import MicroBatch
from trainer.data.validation import ValidationLoader
from trainer.engine.base import Engine, StepResult
from trainer.health.phase_limits import Phase
from trainer.loop.lr_schedule import learning_rate
from trainer.loop.signals import StopRequest
from trainer.loop.spikes import Anomaly
from trainer.loop.together import ReadFailed, StopAsked, Together
from trainer.metrics.record import StepMetrics, ValidationMetrics
from trainer.metrics.recorder import MetricsRecorder
from trainer.metrics.throughput import Throughput, ThroughputMeter, measure_memory_bytes
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped
from trireme.records import RankTimes


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The same on every rank."""

    loss: float
    """Mean over the target tokens, in nats; NaN where there are none."""
    num_tokens: int


def run_validation(
    loader: ValidationLoader,
    *,
    evaluate: Callable[[Sequence[MicroBatch]], tuple[float, float]],
    read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]] = lambda take: take(),
) -> ValidationResult:
    """Compute the exact mean loss over every window of the set; all ranks call this.

    Args:
        evaluate: sum of losses and number of target tokens of one global batch, as `Engine.evaluate`.
        read: takes each global batch by calling what it is given; what it raises ends the validation.
    """
    loss_sum, num_tokens = 0.0, 0.0
    steps = loader.steps()
    for _ in range(loader.num_steps):
        step_loss_sum, step_num_tokens = evaluate(read(steps.__next__))
        loss_sum += step_loss_sum
        num_tokens += step_num_tokens
    return ValidationResult(loss=loss_sum / num_tokens if num_tokens else math.nan, num_tokens=int(num_tokens))


_LOGGER = logging.getLogger(__name__)

Outcome = Literal["done", "stopped", "unsaved"]


class Saver(Protocol):
    """Writes checkpoints of the run, in the background perhaps; all ranks call every method."""

    def save(self, progress: TrainProgress) -> None:
        """Save where the run stands; a failure is told by the saver, and training goes on."""
        ...

    def save_last(self, progress: TrainProgress) -> bool:
        """Save where the run ends; False when that was not possible."""
        ...

    def note_validation(self, progress: TrainProgress) -> None:
        """Have the checkpoint of this step, if there is one, know its validation loss."""
        ...

    def finish(self) -> bool:
        """Wait for the save in progress; False when the newest save failed."""
        ...


class Health(Protocol):
    """Watches over the run; all ranks call every method."""

    def enter(self, phase: Phase, step: int) -> None:
        """Something begins; the step is the one that is taken, or was taken last."""
        ...

    def after_step(self, step: int) -> RankTimes | None:
        """Make the checks that are due; the slowest rank, when the ranks were compared."""
        ...


class Recovery(Protocol):
    """Judges steps and undoes what went wrong; all ranks call it."""

    def must_skip(self, *, first_sample: int, end_sample: int) -> bool:
        """Whether the update of the step with these samples is left out, as a run that is replayed did."""
        ...

    def judge(self, progress: TrainProgress, result: StepResult, *, first_sample: int) -> Anomaly | None:
        """What is wrong with the step, if it asks for something to be done."""
        ...

    def act(self, progress: TrainProgress, finding: Anomaly) -> bool:
        """Do it; whether the run has gone back, to where progress says now."""
        ...

    def remember(self, progress: TrainProgress) -> None:
        """Write into progress what it judges by, before progress is saved."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The settings that decide what happens when."""

    training: TrainingConfig
    lr_schedule: LrScheduleConfig
    checkpoint: CheckpointConfig
    peak_learning_rate: float
    tokens_per_step: int


class TrainLoop:
    """Takes steps until the run ends or someone asks to stop."""

    def __init__(
        self,
        config: LoopConfig,
        *,
        engine: Engine,
        loader: BatchLoader,
        validation: ValidationLoader | None,
        recorder: MetricsRecorder,
        meter: ThroughputMeter,
        saver: Saver,
        health: Health,
        recovery: Recovery,
        progress: TrainProgress,
        device: torch.device,
    ) -> None:
        self.progress = progress
        self._config = config
        self._engine, self._loader, self._validation = engine, loader, validation
        self._recorder, self._meter, self._saver, self._health = recorder, meter, saver, health
        self._recovery = recovery
        self._device = device

    def run(self, stop: StopRequest) -> Outcome:
        """Train; all ranks call this.

        Returns:
            done at the end of the run or after training.stop_after_step, stopped when a signal asked for it, unsaved
            when the last save failed in either case.
        Raises:
            RunStopped: on every rank, when the run cannot go on; where its weights are good, they are saved.
        """
        start, together = self.progress.step, Together(stop, device=self._device)
        try:
            self._train(together)
            return self._end("done")
        except StopAsked:
            return self._end("stopped")
        except ReadFailed as error:
            saved = self._save_before_leaving(is_new=self.progress.step > start)
            raise RunStopped(tell_once(f"{error}\n{saved}"), exit_code=error.exit_code) from error
        except ConfigError as error:
            # Of going back to a checkpoint: what stands in memory is what it should have replaced.
            reasons = "; ".join(map(str, error.violations))
            text = f"the run ends at step {self.progress.step} without saving it: {reasons}"
            raise RunStopped(tell_once(text), exit_code=EXIT_BAD_INPUT) from error

    def _train(self, together: Together) -> None:
        """Take the steps, save and validate where that is due; returns when the last one is done."""
        training, checkpoint = self._config.training, self._config.checkpoint
        last_step = training.last_step
        if self.progress.is_validation_due and self._validates:
            self._validate(together)
        elif self.progress.step >= last_step:
            _LOGGER.info("nothing to do: step %d of %d is done", self.progress.step, last_step)
        while self.progress.step < last_step:
            if self._take_step(together):
                continue
            step = self.progress.step
            self.progress.is_validation_due = self._should_validate(step)
            if self.progress.is_validation_due:
                self.progress.validation_loss = None  # of these weights nobody knows it yet
            # Saved first: a validation may take long, and who must leave meanwhile has saved.
            if checkpoint.save_interval and step % checkpoint.save_interval == 0:
                self._health.enter("checkpoint", step)
                self._recovery.remember(self.progress)
                self._saver.save(self.progress)
            if self.progress.is_validation_due:
                self._validate(together)

    @property
    def _validates(self) -> bool:
        return self._validation is not None and self._config.training.eval_interval > 0

    def _should_validate(self, step: int) -> bool:
        training = self._config.training
        return self._validates and (step % training.eval_interval == 0 or step == training.train_iters)

    def _save_before_leaving(self, *, is_new: bool) -> str:
        """Save where the run stands, because it cannot go on; say what came of it."""
        step = self.progress.step
        if not is_new:
            return f"no step was taken after step {step}, so there is nothing to save"
        outcome = self._end("stopped")
        if not self._config.checkpoint.save_at_end:
            return f"step {step} is not saved (checkpoint.save_at_end=false)"
        return f"step {step} is saved" if outcome == "stopped" else f"step {step} could not be saved"

    def _end(self, outcome: Outcome) -> Outcome:
        self._health.enter("checkpoint", self.progress.step)
        self._recovery.remember(self.progress)
        is_last_saved = self._config.checkpoint.save_at_end
        is_saved = self._saver.save_last(self.progress) if is_last_saved else self._saver.finish()
        self._health.enter("end", self.progress.step)
        return outcome if is_saved else "unsaved"

    def _take_step(self, together: Together) -> bool:
        """Take one; whether it has led back to an earlier one.

        Raises:
            StopAsked, ReadFailed: before anything of it is done.
        """
        step = self.progress.step + 1
        self._health.enter("step", step)
        self._meter.start()
        rate = learning_rate(
            self.progress.step,
            peak=self._config.peak_learning_rate,
            schedule=self._config.lr_schedule,
            train_iters=self._config.training.train_iters,
        )
        first_sample = self._loader.consumed_samples
        micro_batches = together(self._loader.next_step, otherwise=f"step {step} cannot be taken")
        skip_update = self._recovery.must_skip(first_sample=first_sample, end_sample=self._loader.consumed_samples)
        result = self._engine.train_step(micro_batches, learning_rate=rate, skip_update=skip_update)
        throughput = self._meter.stop()
        self.progress.step += 1
        self.progress.consumed_samples = self._loader.consumed_samples
        self.progress.consumed_tokens += self._config.tokens_per_step
        rank_times = self._health.after_step(self.progress.step)
        self._recorder.record_step(self._step_metrics(result, throughput, rate, rank_times))
        finding = self._recovery.judge(self.progress, result, first_sample=first_sample)
        if finding is None:
            return False
        self._health.enter("checkpoint", self.progress.step)
        return self._recovery.act(self.progress, finding)

    def _step_metrics(
        self, result: StepResult, throughput: Throughput, rate: float, rank_times: RankTimes | None
    ) -> StepMetrics:
        return StepMetrics(
            step=self.progress.step,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            tokens_per_second=throughput.tokens_per_second,
            step_time_seconds=throughput.step_time_seconds,
            model_tflops_per_device=throughput.model_tflops_per_device,
            mfu=throughput.mfu,
            consumed_samples=self.progress.consumed_samples,
            consumed_tokens=self.progress.consumed_tokens,
            memory_bytes=measure_memory_bytes(self._device),
            is_skipped=result.is_skipped,
            num_skipped_steps=self.progress.step - self._engine.num_updates,
            loss_scale=result.loss_scale,
            routing=result.routing,
            rank_times=rank_times,
        )

    def _validate(self, together: Together) -> None:
        """Validate, and have the checkpoint of these weights know how good they are.

        Raises:
            StopAsked, ReadFailed: in between; then the next start validates again.
        """
        step = self.progress.step
        assert self._validation is not None
        self._health.enter("validation", step)
        result = run_validation(
            self._validation,
            evaluate=self._engine.evaluate,
            read=lambda take: together(take, otherwise=f"the validation after step {step} cannot be made"),
        )
        self.progress.validation_loss = result.loss if math.isfinite(result.loss) else None
        self.progress.is_validation_due = False
        self._saver.note_validation(self.progress)
        if not result.num_tokens:
            _LOGGER.info("data.validation has no target token: all are masked; there is no validation loss")
            return
        self._recorder.record_validation(
            ValidationMetrics(
                step=step,
                loss=result.loss,
                num_tokens=result.num_tokens,
                consumed_samples=self.progress.consumed_samples,
                consumed_tokens=self.progress.consumed_tokens,
            )
        )


def tell_once(text: str) -> str:
    """What all ranks raise, one tells."""
    return text if not distributed.is_initialized() or distributed.get_rank() == 0 else ""
