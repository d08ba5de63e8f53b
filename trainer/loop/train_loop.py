"""Train: take steps, save and validate when they are due, stop on a signal."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Literal

import torch
from torch import distributed

from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.trainer_state import TrainProgress, is_same_basis, name_basis, update_best
from trainer.config.evaluation import EvaluationConfig
from trainer.config.finetune import FinetuneConfig
from trainer.config.optim import LrScheduleConfig
from trainer.config.run import CheckpointConfig, TrainingConfig
from trainer.data.loader import BatchLoader
from trainer.data.micro_batch import MicroBatch, find_target_share
from trainer.data.validation import ValidationLoader
from trainer.engine.base import Engine, StepResult
from trainer.health.monitor import Health
from trainer.loop.collective_read import CollectiveRead, ReadFailed, StopRequested
from trainer.loop.lr_schedule import learning_rate
from trainer.loop.recovery import Recovery
from trainer.loop.scoring import Scorer
from trainer.loop.signals import StopRequest
from trainer.loop.suite_evaluation import SuiteEvaluation
from trainer.loop.teacher_comparison import TeacherComparison
from trainer.metrics.record import EvaluationMetrics, StepMetrics, ValidationMetrics
from trainer.metrics.recorder import MetricsRecorder
from trainer.metrics.throughput import Throughput, ThroughputMeter, measure_memory_bytes
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped
from trireme.progress import PlainProgress
from trireme.records import RankTimes


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Hold the result of a validation, the same on every rank."""

    loss: float
    """Mean over the target tokens, in nats; NaN if there are none."""
    num_tokens: int
    """Target tokens, or targets of another kind."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of the task, by name."""


def run_validation(
    loader: ValidationLoader,
    *,
    evaluate: Callable[[Sequence[MicroBatch]], tuple[float, float]],
    read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]] = lambda take: take(),
    scorer: Scorer | None = None,
) -> ValidationResult:
    """Compute the exact mean loss over all windows of the validation set; all ranks call this.

    Args:
        evaluate: returns the sum of losses and the number of target tokens of one global batch, as `Engine.evaluate`;
            with a scorer, it lets it observe every output.
        read: reads each global batch by calling its argument; an exception ends the validation.
        scorer: computes the scores of a task.
    """
    if scorer is not None:
        scorer.reset()
    loss_sum, num_tokens = 0.0, 0.0
    steps = loader.steps()
    progress = PlainProgress(
        "Validation",
        total=loader.num_steps,
        unit="global batches",
        write=_LOGGER.info,
        interval_seconds=_VALIDATION_PROGRESS_SECONDS,
    )
    for done in range(loader.num_steps):
        step_loss_sum, step_num_tokens = evaluate(read(steps.__next__))
        loss_sum += step_loss_sum
        num_tokens += step_num_tokens
        progress.update(done + 1)
    return ValidationResult(
        loss=loss_sum / num_tokens if num_tokens else math.nan,
        num_tokens=math.ceil(num_tokens),
        scores=scorer.score() if scorer is not None else {},
    )


_LOGGER = logging.getLogger(__name__)
_VALIDATION_PROGRESS_SECONDS = 10.0
"""Between the lines that say how far a validation is; a shorter one has none."""

Outcome = Literal["done", "stopped", "unsaved"]


class StepOutcome(Enum):
    """How a step ended."""

    TAKEN = "taken"
    """The step counts: it may be saved and validated."""
    ROLLED_BACK = "rolled_back"
    """An anomaly led back to an earlier checkpoint: training continues from there."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Hold the settings that the loop reads."""

    training: TrainingConfig
    lr_schedule: LrScheduleConfig
    checkpoint: CheckpointConfig
    peak_learning_rate: float
    tokens_per_step: int
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


class TrainLoop:
    """Take steps until the run ends or a stop signal arrives."""

    def __init__(
        self,
        config: LoopConfig,
        *,
        engine: Engine,
        loader: BatchLoader,
        validation: ValidationLoader | None,
        recorder: MetricsRecorder,
        meter: ThroughputMeter,
        checkpoints: CheckpointManager,
        health: Health,
        recovery: Recovery,
        progress: TrainProgress,
        device: torch.device,
        scorer: Scorer | None = None,
        suite: SuiteEvaluation | None = None,
        teacher: TeacherComparison | None = None,
    ) -> None:
        self.progress = progress
        self._teacher = teacher
        self._scorer, self._suite = scorer, suite
        self._clock = _CostClock()
        self._config = config
        self._engine, self._loader, self._validation = engine, loader, validation
        self._recorder, self._meter = recorder, meter
        self._checkpoints, self._health, self._recovery = checkpoints, health, recovery
        self._device = device

    def run(self, stop: StopRequest) -> Outcome:
        """Train; all ranks call this.

        Returns:
            "done" at the end of the run or after training.stop_after_step, "stopped" after a stop signal, "unsaved" if
            the last save failed in either case.
        Raises:
            RunStopped: on every rank, when the run cannot continue; valid weights have been saved.
        """
        start, read = self.progress.step, CollectiveRead(stop, device=self._device)
        try:
            self._train(read)
            return self._end("done")
        except StopRequested:
            return self._end("stopped")
        except ReadFailed as error:
            saved = self._save_before_leaving(is_new=self.progress.step > start)
            raise RunStopped(on_rank0_only(f"{error}\n{saved}"), exit_code=error.exit_code) from error
        except ConfigError as error:
            # Raised by a rollback: the weights in memory are those that it should have replaced.
            reasons = "; ".join(map(str, error.violations))
            text = f"The run stops at step {self.progress.step} without saving it: {reasons}"
            raise RunStopped(on_rank0_only(text), exit_code=EXIT_BAD_INPUT) from error

    def _train(self, read: CollectiveRead) -> None:
        """Take the steps, save and validate when they are due; return after the last step."""
        training, checkpoint = self._config.training, self._config.checkpoint
        last_step = training.last_step
        has_finished = self.progress.step >= training.train_iters
        lacks_comparison = has_finished and self._lacks_comparison()
        if self.progress.is_validation_due and self._validates:
            self._validate(read)
        elif not (self._evaluates_now or lacks_comparison) and (
            self.progress.step >= last_step or self._has_stopped_early
        ):
            _LOGGER.info("Nothing to do: step %d of %d is done.", self.progress.step, last_step)
        if self._evaluates_now:
            self._evaluate(read)
        if self.progress.step == 0 and training.eval_at_start and self._validates:
            self._validate(read)
        while self.progress.step < last_step and not self._has_stopped_early:
            if self._take_step(read) is StepOutcome.ROLLED_BACK:
                continue
            step = self.progress.step
            self.progress.is_validation_due = self._should_validate(step)
            self.progress.is_evaluation_due = self._should_evaluate(step)
            if self.progress.is_validation_due:
                # The loss of these weights is not known yet.
                self.progress.validation_loss = self.progress.validation_score = None
            # Saved first: a validation may take long, and a process that has to exit meanwhile has saved.
            if checkpoint.save_interval and step % checkpoint.save_interval == 0:
                self._health.enter("checkpoint", step)
                self._recovery.store_history(self.progress)
                self._checkpoints.save(self.progress)
            if self.progress.is_validation_due:
                self._validate(read)
            if self.progress.is_evaluation_due:
                self._evaluate(read)
        self._describe_best()
        if lacks_comparison or (not has_finished and self.progress.step >= training.train_iters):
            self._compare_with_teacher(read)

    @property
    def _has_stopped_early(self) -> bool:
        return has_stopped_early(self._config.finetune, self.progress)

    def _describe_best(self) -> None:
        best, finetune = self.progress.best_validation, self._config.finetune
        if best is None or finetune.task is None:
            return
        if self._has_stopped_early:
            _LOGGER.info(
                "The run ends at step %d: %d validations have not been better than that of step %d.",
                self.progress.step,
                best.num_since,
                best.step,
            )
        value = best.value if finetune.metric == "loss" else -best.value
        _LOGGER.info("Best validation: %s %.4f at step %d.", finetune.metric, value, best.step)

    @property
    def _validates(self) -> bool:
        return self._validation is not None and self._config.training.eval_interval > 0

    def _should_validate(self, step: int) -> bool:
        training = self._config.training
        return self._validates and (step % training.eval_interval == 0 or step == training.train_iters)

    @property
    def _evaluates_now(self) -> bool:
        return self.progress.is_evaluation_due and self._suite is not None

    def _should_evaluate(self, step: int) -> bool:
        interval = self._config.evaluation.interval
        return self._suite is not None and (step % interval == 0 or step == self._config.training.train_iters)

    def _save_if_best(self, progress: TrainProgress) -> None:
        """Save the best weights of a fine-tuning run when they are found, if checkpoint.keep_best is to keep them."""
        best = progress.best_validation
        is_best = best is not None and best.step == progress.step
        if is_best and self._config.finetune.task is not None and self._config.checkpoint.keep_best:
            self._health.enter("checkpoint", progress.step)
            self._recovery.store_history(progress)
            self._checkpoints.save(progress)

    def _save_before_leaving(self, *, is_new: bool) -> str:
        """Save because the run cannot continue; return a sentence about the outcome."""
        step = self.progress.step
        if not is_new:
            return f"No step was taken after step {step}, so there is nothing to save."
        outcome = self._end("stopped")
        if not self._config.checkpoint.save_at_end:
            return f"Step {step} was not saved (checkpoint.save_at_end=false)."
        return f"Saved step {step}." if outcome == "stopped" else f"Failed to save step {step}."

    def _end(self, outcome: Outcome) -> Outcome:
        self._health.enter("checkpoint", self.progress.step)
        self._recovery.store_history(self.progress)
        saves_at_end = self._config.checkpoint.save_at_end
        is_saved = self._checkpoints.save_last(self.progress) if saves_at_end else self._checkpoints.finish()
        self._health.enter("end", self.progress.step)
        return outcome if is_saved else "unsaved"

    def _take_step(self, read: CollectiveRead) -> StepOutcome:
        """Take one step: read its batch, train, record it, and handle an anomaly.

        Raises:
            StopRequested, ReadFailed: before the step changes anything.
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
        micro_batches = read(self._loader.next_step, otherwise=f"Cannot take step {step}")
        skip_update = self._recovery.should_skip_update(
            first_sample=first_sample, end_sample=self._loader.consumed_samples
        )
        result = self._engine.train_step(micro_batches, learning_rate=rate, skip_update=skip_update)
        throughput = self._meter.stop(target_share=find_target_share(micro_batches))
        self.progress.step += 1
        self.progress.consumed_samples = self._loader.consumed_samples
        self.progress.consumed_tokens += self._config.tokens_per_step
        rank_times = self._health.after_step(self.progress.step)
        self._recorder.record_step(self._step_metrics(result, throughput, rate, rank_times))
        anomaly = self._recovery.find_anomaly(self.progress, result, first_sample=first_sample)
        if anomaly is None:
            return StepOutcome.TAKEN
        self._health.enter("checkpoint", self.progress.step)
        is_rolled_back = self._recovery.handle(self.progress, anomaly)
        return StepOutcome.ROLLED_BACK if is_rolled_back else StepOutcome.TAKEN

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

    def _validate(self, read: CollectiveRead) -> None:
        """Validate, and store the loss in the checkpoint of these weights; before the first step, only show it.

        Raises:
            StopRequested, ReadFailed: before the end; then the next start validates again.
        """
        step = self.progress.step
        assert self._validation is not None
        self._health.enter("validation", step)
        scorer, finetune = self._scorer, self._config.finetune
        result = run_validation(
            self._validation,
            evaluate=partial(self._engine.evaluate, observe=scorer.observe) if scorer else self._engine.evaluate,
            read=lambda take: read(take, otherwise=f"Cannot validate after step {step}"),
            scorer=scorer,
        )
        if step:
            self._note_validation(result)
        if not result.num_tokens:
            _LOGGER.info(
                "data.validation has no target tokens: the loss mask covers all of them. There is no validation loss."
            )
            return
        self._recorder.record_validation(
            ValidationMetrics(
                step=step,
                loss=result.loss,
                num_tokens=result.num_tokens,
                scores=result.scores,
                is_of_tokens=finetune.task in (None, "sft"),
                consumed_samples=self.progress.consumed_samples,
                consumed_tokens=self.progress.consumed_tokens,
            )
        )

    def _note_validation(self, result: ValidationResult) -> None:
        """Compare a validation with the best one, and store it in the checkpoint of these weights."""
        progress, finetune, step = self.progress, self._config.finetune, self.progress.step
        assert self._validation is not None
        progress.validation_loss = result.loss if math.isfinite(result.loss) else None
        progress.validation_score = None if finetune.metric == "loss" else result.scores.get(finetune.metric)
        progress.validation_basis = name_basis(finetune.metric, self._validation.digest)
        best = progress.best_validation
        if best is not None and not is_same_basis(best.basis, progress.validation_basis):
            _LOGGER.warning(
                "The best validation, at step %d, was measured on other data: it is searched for anew.",
                best.step,
            )
        progress.best_validation = update_best(
            best,
            step=step,
            loss=progress.validation_loss,
            score=progress.validation_score,
            basis=progress.validation_basis,
        )
        progress.is_validation_due = False
        self._checkpoints.note_validation(progress)
        self._save_if_best(progress)

    def _lacks_comparison(self) -> bool:
        """Return whether the run was stopped between its last step and the comparison with the teacher."""
        if self._teacher is None or self._validation is None:
            return False
        return not self._teacher.is_done(self.progress.step)

    def _compare_with_teacher(self, read: CollectiveRead) -> None:
        """Report the perplexities of a distilled model and its teacher at the end of the run.

        Raises:
            StopRequested, ReadFailed: before the end.
        """
        if self._teacher is None or self._validation is None:
            return
        step = self.progress.step
        self._health.enter("validation", step)
        self._teacher.run(
            self._validation,
            step=step,
            evaluate=self._engine.evaluate,
            read=lambda take: read(take, otherwise=f"Cannot compare with the teacher after step {step}"),
        )

    def _evaluate(self, read: CollectiveRead) -> None:
        """Run the evaluation suite, and note it in the checkpoint of these weights.

        Raises:
            StopRequested, ReadFailed: before the end; then the next start evaluates again.
        """
        step, progress = self.progress.step, self.progress
        assert self._suite is not None
        self._health.enter("validation", step)
        result = self._suite.run(
            evaluate=self._engine.evaluate,
            read=lambda take: read(take, otherwise=f"Cannot evaluate after step {step}"),
        )
        progress.is_evaluation_due = False
        self._checkpoints.note_evaluation(step)
        self._recorder.record_evaluation(
            EvaluationMetrics(
                step=step,
                scores=result.scores,
                seconds=result.seconds,
                num_items=result.num_items,
                consumed_samples=progress.consumed_samples,
                consumed_tokens=progress.consumed_tokens,
            )
        )
        share = self._clock.add(result.seconds)
        _LOGGER.info(
            "Evaluated %d items in %.1f s: evaluations have taken %.1f %% of this run's time so far.",
            result.num_items,
            result.seconds,
            100 * share,
        )


class _CostClock:
    """Measure the share of the time since the start that evaluations take."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._seconds = 0.0

    def add(self, seconds: float) -> float:
        """Add the time of an evaluation that ends now; return the share of all."""
        self._seconds += seconds
        return self._seconds / max(time.monotonic() - self._start, self._seconds)


def has_stopped_early(finetune: FinetuneConfig, progress: TrainProgress) -> bool:
    """Return whether so many validations brought nothing better that the run is over."""
    patience, best = finetune.early_stopping_patience, progress.best_validation
    return patience is not None and best is not None and best.num_since >= patience


def on_rank0_only(text: str) -> str:
    """Return the text on rank 0 and nothing on the others, for an error that all ranks raise."""
    return text if not distributed.is_initialized() or distributed.get_rank() == 0 else ""
