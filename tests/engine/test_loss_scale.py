"""The scale of the loss falls when gradients overflow, grows when they do not, and every engine tries the same ones."""

import math

import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.engine.runs import FP16, MEGATRON_PLAIN, Case, Trained, train_all
from trainer.config.optim import PrecisionConfig
from trainer.engine.base import LossScaleState
from trainer.engine.loss_scale import LossScale, build_loss_scale

PRECISION = PrecisionConfig(
    params_dtype="fp16", initial_loss_scale=64, min_loss_scale=16, loss_scale_window=3, loss_scale_hysteresis=2
)

# Far too large a scale, which falls with each skipped step and soon grows again.
OVERFLOWING = PrecisionConfig(
    params_dtype="fp16", initial_loss_scale=2**22, loss_scale_hysteresis=1, loss_scale_window=2
)
OVERFLOWING_RUNS = {
    "overflowing": Case(precision=OVERFLOWING, num_steps=10),
    "megatron overflowing": Case(precision=OVERFLOWING, engine=MEGATRON_PLAIN, num_steps=10),
}


@pytest.fixture(scope="module")
def trained() -> dict[str, Trained]:
    return run_distributed(train_all, 1, {"fp16": Case(precision=FP16), **OVERFLOWING_RUNS})[0]


def scales(scale: LossScale, steps: str) -> list[float]:
    """The scales that steps meet, of which those written x overflow."""
    met = []
    for step in steps:
        met.append(scale.value)
        scale.update(is_skipped=step == "x")
    return met


def test_the_scale_grows_after_a_window_of_good_steps() -> None:
    assert scales(LossScale(PRECISION), ".......") == [64, 64, 64, 128, 128, 128, 256]
    assert scales(LossScale(PRECISION), "..x....") == [64, 64, 64, 64, 64, 64, 128]


def test_the_scale_falls_from_the_second_skipped_step_on_and_not_below_the_minimum() -> None:
    assert scales(LossScale(PRECISION), "x.xxxxx") == [64, 64, 64, 32, 16, 16, 16]


def test_a_window_of_good_steps_forgives_the_first_skipped_step() -> None:
    assert scales(LossScale(PRECISION), "x...x.") == [64, 64, 64, 64, 128, 128]


def test_the_state_goes_on_where_it_was_saved() -> None:
    first, second = LossScale(PRECISION), LossScale(PRECISION)
    scales(first, "x.")
    assert first.state == LossScaleState(scale=64.0, num_good_steps=1, num_skips_left=1)
    second.restore(first.state)
    assert second.state == first.state
    assert scales(second, "..xx.") == scales(first, "..xx.")


def test_only_fp16_is_scaled() -> None:
    assert build_loss_scale(PrecisionConfig(params_dtype="bf16")) is None
    scale = build_loss_scale(PRECISION)
    assert scale is not None
    assert torch.equal(scale.multiply(torch.tensor([3.0])), torch.tensor([192.0]))


@pytest.mark.parametrize("name", OVERFLOWING_RUNS)
def test_training_finds_a_scale_that_fits(name: str, trained: dict[str, Trained]) -> None:
    results, expected = trained[name].results, trained["fp16"].results
    assert results[0].loss_scale == OVERFLOWING.initial_loss_scale
    skipped = [result for result in results if result.is_skipped]
    updates = [result for result in results if not result.is_skipped]
    assert skipped and len(updates) >= 4
    assert all(not math.isfinite(result.grad_norm) and math.isfinite(result.loss) for result in skipped)
    # The loss stays where it is until the first update reaches the weights.
    assert results[0].loss == expected[0].loss
    assert updates[0].grad_norm < 10, "unscaled by the scale that it was multiplied by"
    assert results[-1].loss < results[0].loss


def test_engines_skip_the_same_steps(trained: dict[str, Trained]) -> None:
    first, second = ([(r.loss_scale, r.is_skipped) for r in trained[name].results] for name in OVERFLOWING_RUNS)
    assert first == second
    assert len({scale for scale, _ in first}) > 3
