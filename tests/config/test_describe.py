"""What a run says of itself when it starts."""

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


def test_one_of_a_thing_is_not_several() -> None:
    _, size, *_ = _lines("training.global_batch_size=1", "training.train_iters=1")
    assert "tokens in 1 step; 1 process: tensor 1, pipeline 1, context 1, data 1; 1 micro batch of 1 sequence" in size
    _, size, *_ = _lines("parallel=tp2", "training.micro_batch_size=4", world_size=2)
    assert "in 1000 steps; 2 processes: tensor 2" in size and "4 micro batches of 4 sequences" in size


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["training.train_iters=50"],
            "rises to 0.0003 over 5 steps (a tenth of the run, at most 100; set by lr_schedule.warmup_steps), then"
            " falls to 3e-05 at step 50 (cosine)",
        ),
        (["lr_schedule.warmup_steps=1"], "rises to 0.0003 over 1 step, then falls to 3e-05 at step 1000 (cosine)"),
        (["lr_schedule=constant", "training.train_iters=9"], "starts at 0.0003, then stays there"),
        (
            ["lr_schedule=wsd", "training.train_iters=100"],
            "then stays there, and falls over the last 10 steps to 0 at step 100 (sqrt)",
        ),
    ],
)
def test_the_schedule_that_results_is_said(overrides: list[str], expected: str) -> None:
    schedule = _lines(*overrides)[2]
    assert schedule.startswith("the learning rate ") and schedule.endswith(expected)


def test_whether_there_is_validation_is_said() -> None:
    assert _lines()[3] == "no validation: data.validation names no data"
    data = "data.validation=[{paths:[/data/held_out]}]"
    assert _lines(data, "training.eval_interval=0")[3] == "no validation: training.eval_interval=0 switches it off"
    assert _lines(data)[3] == "validation every 100 steps and after the last step, on 10 global batches at most"
    only_last = _lines(data, "training.train_iters=100", "training.eval_iters=1")[3]
    assert only_last == "validation after the last step, on 1 global batch at most"


@pytest.mark.parametrize("style", ["constant", "cosine", "linear", "wsd"])
@pytest.mark.parametrize("train_iters", [1, 3, 99, 100])
def test_no_schedule_refuses_a_short_trial(style: str, train_iters: int) -> None:
    assert _lines(f"lr_schedule={style}", f"training.train_iters={train_iters}")
