"""The order of what happens after a step, and what is saved when a run must leave: its parts note what is done."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.checkpoint.trainer_state import BestValidation, TrainProgress
from trainer.config.evaluation import EvaluationConfig
from trainer.config.optim import LrScheduleConfig
from trainer.config.run import CheckpointConfig, TrainingConfig
from trainer.data.sample_ranges import SampleRanges
from trainer.engine.base import StepResult
from trainer.loop import train_loop
from trainer.loop.signals import StopRequest
from trainer.loop.suite_evaluation import SuiteResult
from trainer.loop.train_loop import LoopConfig, TrainLoop, run_validation
from trainer.metrics.record import ValidationMetrics
from trainer.metrics.throughput import ThroughputMeter
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped, Violation

BAD_TOKEN = ConfigError(
    [Violation(path="/data/x", value="token id 99", message="is not in the vocabulary", fix="look")]
)
GONE = RunStopped("/data/x.bin: cannot be read", exit_code=EXIT_BAD_INPUT)


@dataclass(kw_only=True)
class Parts:
    """All that a loop needs; `log` has what it asks, in order."""

    stop: StopRequest = field(default_factory=StopRequest)
    log: list[str] = field(default_factory=list)
    saved: list[TrainProgress] = field(default_factory=list)
    validated: list[TrainProgress] = field(default_factory=list)
    events: dict[str, Callable[[], object]] = field(default_factory=dict)
    """What happens when something is asked: its line in the log -> what to do."""

    consumed_samples: int = 0
    skipped_samples: SampleRanges = field(default_factory=SampleRanges)
    num_steps: int = 3
    """Of a validation."""
    validations: list[ValidationMetrics] = field(default_factory=list)
    digest: str = "1"
    """Of the validation's windows."""
    num_updates: int = 0

    def note(self, line: str) -> None:
        self.log.append(line)
        self.events.get(line, lambda: None)()

    def ask_to_stop(self) -> None:
        self.stop._signal = 15

    # The loader of training, and that of validation.
    def next_step(self) -> list:
        self.note(f"read {self.consumed_samples + 1}")
        self.consumed_samples += 1
        return []

    def steps(self) -> Iterator[list]:
        for number in range(self.num_steps):
            self.note(f"read validation {number}")
            yield []

    # The engine.
    def train_step(self, batches: list, **_: object) -> StepResult:
        self.num_updates += 1
        return StepResult(loss=2.0, grad_norm=1.0, is_skipped=False, loss_scale=None)

    def evaluate(self, batches: list) -> tuple[float, float]:
        return 7.0, 2.0

    # The checkpoint manager.
    def save(self, progress: TrainProgress) -> None:
        self.note(f"save {progress.step}")
        self.saved.append(replace(progress))

    def save_last(self, progress: TrainProgress) -> bool:
        if not self.saved or self.saved[-1].step != progress.step:
            self.save(progress)
        return True

    def finish(self) -> bool:
        return True

    def note_validation(self, progress: TrainProgress) -> None:
        self.note(f"validated {progress.step}")
        self.validated.append(replace(progress))

    def note_evaluation(self, step: int) -> None:
        self.note(f"evaluated {step}")

    # The evaluation suite.
    def run(self, *, evaluate: object, read: Callable) -> SuiteResult:
        for number in range(2):
            read(lambda number=number: self.note(f"read evaluation {number}"))
        return SuiteResult(scores={}, num_items=1, seconds=0.0)

    # Health, recovery, recorder.
    def enter(self, phase: str, step: int) -> None: ...

    def after_step(self, step: int) -> None: ...

    def should_skip_update(self, **_: object) -> bool:
        return False

    def find_anomaly(self, *_: object, **__: object) -> None: ...

    def store_history(self, progress: TrainProgress) -> None: ...

    def record_step(self, metrics: object) -> None: ...

    def record_validation(self, metrics: ValidationMetrics) -> None:
        self.validations.append(metrics)

    def record_evaluation(self, metrics: object) -> None: ...


def build(
    parts: Parts,
    *,
    progress: TrainProgress | None = None,
    save_at_end: bool = True,
    steps: int = 4,
    evaluation_interval: int = 0,
    eval_at_start: bool = False,
) -> TrainLoop:
    training = TrainingConfig(train_iters=steps, eval_interval=2, eval_iters=3, eval_at_start=eval_at_start)
    checkpoint = CheckpointConfig(save_interval=2, save_at_end=save_at_end)
    parts.consumed_samples = progress.step if progress else 0
    return TrainLoop(
        LoopConfig(
            training=training,
            lr_schedule=LrScheduleConfig(warmup_steps=0),
            checkpoint=checkpoint,
            peak_learning_rate=1e-3,
            tokens_per_step=8,
            evaluation=EvaluationConfig(interval=evaluation_interval),
        ),
        engine=parts,  # type: ignore[arg-type]
        loader=parts,  # type: ignore[arg-type]
        validation=parts,  # type: ignore[arg-type]
        recorder=parts,  # type: ignore[arg-type]
        meter=ThroughputMeter(
            tokens_per_step=8, model_flops_per_token=1, target_flops_per_token=0, num_devices=1, peak_tflops=None
        ),
        checkpoints=parts,  # type: ignore[arg-type]
        health=parts,  # type: ignore[arg-type]
        recovery=parts,  # type: ignore[arg-type]
        progress=progress or TrainProgress(),
        device=torch.device("cpu"),
        suite=parts if evaluation_interval else None,  # type: ignore[arg-type]
    )


def validation() -> list[str]:
    return [f"read validation {number}" for number in range(3)]


def test_a_step_is_saved_before_it_is_validated_and_its_loss_is_noted_after() -> None:
    parts = Parts()
    assert build(parts).run(parts.stop) == "done"
    step = [*validation()]
    assert parts.log == [
        *("read 1", "read 2", "save 2", *step, "validated 2", "read 3", "read 4", "save 4", *step, "validated 4"),
    ]
    assert [(saved.validation_loss, saved.is_validation_due) for saved in parts.saved] == [(None, True)] * 2
    assert [(done.validation_loss, done.is_validation_due) for done in parts.validated] == [(3.5, False)] * 2


def test_a_request_to_stop_waits_for_one_batch_of_a_validation_and_the_next_start_validates_again() -> None:
    parts = Parts()
    parts.events["read validation 1"] = parts.ask_to_stop
    loop = build(parts)
    assert loop.run(parts.stop) == "stopped"
    assert parts.log == ["read 1", "read 2", "save 2", "read validation 0", "read validation 1"]
    assert loop.progress.is_validation_due and loop.progress.validation_loss is None
    again = Parts()
    assert build(again, progress=replace(parts.saved[-1])).run(again.stop) == "done"
    assert again.log[:5] == [*validation(), "validated 2", "read 3"]


def test_a_run_that_was_stopped_in_its_last_validation_makes_it_up() -> None:
    parts = Parts()
    assert build(parts, progress=TrainProgress(step=4, is_validation_due=True)).run(parts.stop) == "done"
    assert parts.log[:4] == [*validation(), "validated 4"]
    assert not any(line.startswith("read") and "validation" not in line for line in parts.log)


def test_a_validation_before_the_first_step_is_shown_but_not_compared() -> None:
    parts = Parts()
    loop = build(parts, steps=1, eval_at_start=True)
    assert loop.run(parts.stop) == "done"
    assert parts.log[:4] == [*validation(), "read 1"]
    assert [record.step for record in parts.validations] == [0, 1]
    assert loop.progress.best_validation is not None and loop.progress.best_validation.step == 1
    again = Parts()
    build(again, progress=TrainProgress(step=1), eval_at_start=True).run(again.stop)
    assert again.log[0] == "read 2", "a resumed run has its first validation already"


def test_other_rows_of_validation_begin_a_new_search_for_the_best() -> None:
    parts = Parts(digest="2")
    former = BestValidation(step=1, value=1.0, basis="loss of 1")
    loop = build(parts, progress=TrainProgress(step=1, best_validation=former))
    loop.run(parts.stop)
    assert loop.progress.best_validation == BestValidation(step=2, value=3.5, num_since=1, basis="loss of 2")


def test_a_request_to_stop_is_heard_before_the_next_step() -> None:
    parts = Parts()
    parts.events["read 2"] = parts.ask_to_stop
    loop = build(parts)
    assert loop.run(parts.stop) == "stopped"
    assert [saved.step for saved in parts.saved] == [1], "step 2 had not begun"
    assert parts.saved[0].consumed_samples == 1


def fail(error: Exception) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


@pytest.mark.parametrize("error", [BAD_TOKEN, GONE], ids=["bad_token", "gone"])
def test_data_that_cannot_be_read_any_more_end_the_run_after_a_save(error: Exception) -> None:
    parts = Parts(events={"read 4": fail(error)})
    with pytest.raises(RunStopped) as stopped:
        build(parts).run(parts.stop)
    assert stopped.value.exit_code == EXIT_BAD_INPUT
    assert str(stopped.value) == f"Cannot take step 4: {error}\nSaved step 3."
    assert [(saved.step, saved.consumed_samples) for saved in parts.saved] == [(2, 2), (3, 3)]


def test_validation_data_that_cannot_be_read_end_the_run_after_a_save() -> None:
    parts = Parts(events={"read validation 1": fail(BAD_TOKEN)})
    with pytest.raises(RunStopped, match="Cannot validate after step 2: .*token id 99.*\nSaved step 2"):
        build(parts).run(parts.stop)
    assert parts.saved[-1].is_validation_due


def test_a_run_without_steps_saves_nothing() -> None:
    parts = Parts(events={"read 1": fail(GONE)})
    with pytest.raises(RunStopped, match="Cannot take step 1: .*\nNo step was taken after step 0"):
        build(parts).run(parts.stop)
    assert parts.saved == []
    parts = Parts(events={"read 2": fail(GONE)})
    with pytest.raises(RunStopped, match=r"Step 1 was not saved \(checkpoint.save_at_end=false\)"):
        build(parts, save_at_end=False).run(parts.stop)
    assert parts.saved == []


def test_a_failed_rollback_stops_the_run_without_saving() -> None:
    parts = Parts()
    parts.find_anomaly = lambda *_, **__: "a spike"  # type: ignore[assignment,method-assign]
    parts.handle = fail(BAD_TOKEN)  # type: ignore[attr-defined]
    parts.handle = lambda *_: fail(BAD_TOKEN)()  # type: ignore[attr-defined]
    with pytest.raises(RunStopped, match="The run stops at step 1 without saving it: .*token id 99") as stopped:
        build(parts).run(parts.stop)
    assert stopped.value.exit_code == EXIT_BAD_INPUT and parts.saved == []


def test_a_validation_loss_that_is_not_finite_is_none() -> None:
    parts = Parts()
    parts.evaluate = lambda batches: (math.nan, 2.0)  # type: ignore[method-assign,assignment]
    build(parts, steps=2).run(parts.stop)
    assert [(done.validation_loss, done.is_validation_due) for done in parts.validated] == [(None, False)]


def test_a_step_is_evaluated_after_its_validation_and_an_evaluation_that_was_interrupted_is_done_again() -> None:
    parts = Parts()
    parts.events["read evaluation 1"] = parts.ask_to_stop
    loop = build(parts, evaluation_interval=2)
    assert loop.run(parts.stop) == "stopped"
    expected = ["read 1", "read 2", "save 2", *validation(), "validated 2", "read evaluation 0", "read evaluation 1"]
    assert parts.log == expected
    assert loop.progress.is_evaluation_due and not loop.progress.is_validation_due
    again = Parts()
    progress = replace(parts.saved[-1], is_validation_due=False)
    assert build(again, progress=progress, evaluation_interval=2).run(again.stop) == "done"
    assert again.log[:4] == ["read evaluation 0", "read evaluation 1", "evaluated 2", "read 3"]
    assert again.log[-3:] == ["read evaluation 0", "read evaluation 1", "evaluated 4"]


def test_long_validation_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    loader: Any = SimpleNamespace(num_steps=2, steps=lambda: iter(([], [])))
    with caplog.at_level(logging.INFO):
        run_validation(loader, evaluate=lambda _: (6.0, 2.0))
        assert not caplog.messages, "a short one says nothing"
        monkeypatch.setattr(train_loop, "_VALIDATION_PROGRESS_SECONDS", 0.0)
        result = run_validation(loader, evaluate=lambda _: (6.0, 2.0))
    assert (result.loss, result.num_tokens) == (3.0, 4)
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "Validation: 1/2 global batches (50%)",
        "Validation: 2/2 global batches (100%)",
    ]
