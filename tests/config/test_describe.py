"""The description of a run when it starts."""

import pytest

from trainer.config.derived import derive_config
from trainer.config.describe import describe_run
from trainer.config.load import load_config
from trainer.config.validate import validate

GOOD = ("model.vocab_size=8192", "data.train=[{paths:[/data/wiki]}]")


def _lines(*overrides: str, world_size: int = 1) -> list[str]:
    config = load_config([*GOOD, *overrides])
    assert validate(config, world_size=world_size) == []
    return describe_run(config, derive_config(config, world_size=world_size, vocab_size=8192))


def test_counts_of_one_are_singular() -> None:
    _, size, *_ = _lines("training.global_batch_size=1", "training.train_iters=1")
    assert "tokens in 1 step; 1 process: tensor 1, pipeline 1, context 1, data 1; 1 micro batch of 1 sequence" in size
    _, size, *_ = _lines("parallel=tp2", "training.micro_batch_size=4", world_size=2)
    assert "in 1000 steps; 2 processes: tensor 2" in size and "4 micro batches of 4 sequences" in size


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["training.train_iters=50"],
            "warms up to 0.0003 over 5 steps (a tenth of the run, at most 100; set by lr_schedule.warmup_steps), then"
            " decays to 3e-05 at step 50 (cosine)",
        ),
        (["lr_schedule.warmup_steps=1"], "warms up to 0.0003 over 1 step, then decays to 3e-05 at step 1000 (cosine)"),
        (["lr_schedule=constant", "training.train_iters=9"], "starts at 0.0003, then constant"),
        (
            ["lr_schedule=wsd", "training.train_iters=100"],
            "then constant, then decays over the last 10 steps to 0 at step 100 (sqrt)",
        ),
    ],
)
def test_the_schedule_that_results_is_said(overrides: list[str], expected: str) -> None:
    schedule = _lines(*overrides)[2]
    assert schedule.startswith("Learning rate: ") and schedule.endswith(expected)


def test_whether_there_is_validation_is_said() -> None:
    assert _lines()[3] == "Validation: off (data.validation is empty)"
    data = "data.validation=[{paths:[/data/held_out]}]"
    assert _lines(data, "training.eval_interval=0")[3] == "Validation: off (training.eval_interval=0)"
    assert _lines(data)[3] == "Validation: every 100 steps and after the last step, on at most 10 global batches"
    only_last = _lines(data, "training.train_iters=100", "training.eval_iters=1")[3]
    assert only_last == "Validation: after the last step, on at most 1 global batch"
    first_too = _lines(data, "training.eval_at_start=true", "training.eval_iters=null")[3]
    assert first_too == (
        "Validation: before the first step, every 100 steps and after the last step, on all of data.validation"
    )


def test_the_teacher_is_named_with_its_weight_and_temperature() -> None:
    lines = _lines("distill.teacher=/runs/large", "distill.temperature=2")
    expected = "Distillation: teacher /runs/large, weight 0.5 in the loss, temperature 2"
    assert [line for line in lines if "teacher" in line] == [expected]
    assert not any("teacher" in line for line in _lines("distill.weight=0.7"))


@pytest.mark.parametrize("style", ["constant", "cosine", "linear", "wsd"])
@pytest.mark.parametrize("train_iters", [1, 3, 99, 100])
def test_no_schedule_refuses_a_short_trial(style: str, train_iters: int) -> None:
    assert _lines(f"lr_schedule={style}", f"training.train_iters={train_iters}")


def test_evaluations_are_said_where_there_are_any() -> None:
    def last_line(*overrides: str) -> str:
        config = load_config([*GOOD, *overrides])  # not validated: an evaluation requires a tokenizer, a file
        return describe_run(config, derive_config(config, world_size=1, vocab_size=8192))[-1]

    assert last_line().startswith("Validation: ")
    assert last_line("evaluation.interval=50", "evaluation.num_items=20") == (
        "Evaluation: every 50 steps and after the last step, on the whole suite, 20 items of each task"
    )
    only_last = ("evaluation.interval=9", "training.train_iters=9", "evaluation.tasks=[cloze_en,copy_zh]")
    assert last_line(*only_last) == "Evaluation: after the last step, on cloze_en, copy_zh"
