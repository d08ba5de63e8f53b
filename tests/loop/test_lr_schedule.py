"""The learning rate at steps whose value can be said without the formula."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.derived import minimum_lr, warmup_length, wsd_decay_length
from trainer.config.load import load_config
from trainer.config.optim import LrScheduleConfig
from trainer.loop.lr_schedule import learning_rate

PEAK = 1e-3


def rates(schedule: LrScheduleConfig, *, train_iters: int = 100, num_steps: int | None = None) -> list[float]:
    return [
        learning_rate(step, peak=PEAK, schedule=schedule, train_iters=train_iters)
        for step in range(num_steps or train_iters)
    ]


@pytest.mark.parametrize("style", ["cosine", "linear", "wsd", "constant"])
def test_warmup_is_linear_starts_above_zero_and_ends_at_the_peak(style: str) -> None:
    schedule = LrScheduleConfig(style=style, warmup_steps=4)  # type: ignore[arg-type]
    assert rates(schedule)[:5] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK, PEAK])


@pytest.mark.parametrize(
    ("train_iters", "changes", "expected"),
    [
        (5000, {}, 100),
        (1000, {}, 100),
        (250, {}, 25),
        (19, {}, 1),
        (9, {}, 0),
        (1000, {"decay_steps": 300}, 30),
        (100, {"style": "wsd"}, 10),
        (100, {"style": "wsd", "wsd_decay_steps": 97}, 3),
        (100, {"style": "wsd", "wsd_decay_steps": 100}, 0),
    ],
)
def test_a_warmup_that_is_not_set_is_a_share_of_the_run(
    train_iters: int, changes: dict[str, Any], expected: int
) -> None:
    schedule = LrScheduleConfig(warmup_steps=None, **changes)
    assert warmup_length(schedule, train_iters=train_iters) == expected
    named = replace(schedule, warmup_steps=expected)
    assert rates(schedule, train_iters=train_iters) == rates(named, train_iters=train_iters)


def test_no_warmup_starts_at_the_peak() -> None:
    assert rates(LrScheduleConfig(style="cosine"))[0] == PEAK


def test_constant_stays() -> None:
    assert set(rates(LrScheduleConfig(style="constant"), num_steps=200)) == {PEAK}


def test_cosine_and_linear_between_peak_and_minimum() -> None:
    schedule = LrScheduleConfig(style="linear", warmup_steps=20, min_lr=2e-4)
    # 80 steps from 1e-3 to 2e-4: 1e-5 a step.
    assert rates(schedule)[20:] == pytest.approx([PEAK - 1e-5 * step for step in range(80)])
    cosine = rates(replace(schedule, style="cosine"))
    assert cosine[60] == pytest.approx(6e-4), "half way in time is half way between peak and minimum"
    assert cosine[40] == pytest.approx(2e-4 + 4e-4 * (1 + math.cos(math.pi / 4)))
    assert [cosine[20 + step] + cosine[100 - step] for step in range(1, 40)] == pytest.approx([1.2e-3] * 39)


def test_minimum_holds_after_the_decay() -> None:
    for style in ("cosine", "linear"):
        schedule = LrScheduleConfig(style=style, decay_steps=50, min_lr=1e-4)  # type: ignore[arg-type]
        after = rates(schedule)[50:]
        assert after == pytest.approx([1e-4] * 50)
        assert rates(schedule)[49] > 1e-4


@pytest.mark.parametrize("peak", [3e-4, 1e-3, 7e-6, 2e-5])
def test_a_minimum_that_is_not_set_is_a_tenth_of_the_peak(peak: float) -> None:
    schedule = load_config(["optimizer.lr=" + repr(peak), "model.vocab_size=100"]).lr_schedule
    assert schedule.min_lr is None
    expected = {3e-4: 3e-5, 1e-3: 1e-4, 7e-6: 7e-7, 2e-5: 2e-6}[peak]
    assert learning_rate(100, peak=peak, schedule=schedule, train_iters=100) == pytest.approx(expected, rel=1e-12)
    assert minimum_lr(schedule, peak=peak) == expected


def test_wsd_is_flat_and_then_decays_in_its_own_shape() -> None:
    schedule = LrScheduleConfig(style="wsd", warmup_steps=10, wsd_decay_steps=40, min_lr=0.0)
    sqrt = rates(schedule)
    assert set(sqrt[10:61]) == {PEAK}
    assert sqrt[70] == pytest.approx(PEAK * 0.5), "1 - sqrt(10 / 40)"
    linear = rates(replace(schedule, wsd_decay_style="linear"))
    assert linear[60:] == pytest.approx([PEAK * (1 - step / 40) for step in range(40)])
    cosine = rates(replace(schedule, wsd_decay_style="cosine"))
    assert cosine[80] == pytest.approx(PEAK / 2)
    assert sqrt[65] < cosine[65]
    assert rates(schedule, num_steps=150)[100:] == pytest.approx([0.0] * 50)


def test_wsd_decays_over_a_tenth_unless_told() -> None:
    assert wsd_decay_length(LrScheduleConfig(style="wsd"), train_iters=100) == 10
    assert wsd_decay_length(LrScheduleConfig(style="wsd", decay_steps=50), train_iters=100) == 5
    assert wsd_decay_length(LrScheduleConfig(style="wsd"), train_iters=3) == 1
    curve = rates(LrScheduleConfig(style="wsd"))
    assert curve[90] == PEAK
    assert curve[91] < PEAK


@given(
    style=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    wsd_decay_style=st.sampled_from(["linear", "cosine", "sqrt"]),
    train_iters=st.integers(1, 60),
    data=st.data(),
)
def test_rises_then_falls_within_bounds(
    style: str, wsd_decay_style: str, train_iters: int, data: st.DataObject
) -> None:
    warmup_steps = data.draw(st.integers(0, train_iters))
    decay_steps = data.draw(st.none() | st.integers(max(1, warmup_steps), train_iters))
    min_lr = data.draw(st.floats(0.0, PEAK))
    schedule = LrScheduleConfig(
        style=style,  # type: ignore[arg-type]
        wsd_decay_style=wsd_decay_style,  # type: ignore[arg-type]
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        min_lr=min_lr,
    )
    curve = rates(schedule, train_iters=train_iters, num_steps=train_iters + 5)
    slack = PEAK * 1e-12
    assert all(0 < rate <= PEAK + slack for rate in curve[:warmup_steps])
    assert curve[:warmup_steps] == sorted(curve[:warmup_steps])
    if style != "wsd" or (decay_steps or train_iters) - wsd_decay_length(schedule, train_iters=train_iters) >= (
        warmup_steps
    ):
        later = curve[warmup_steps:]
        assert all(min_lr - slack <= rate <= PEAK + slack for rate in later)
        assert all(second <= first + slack for first, second in itertools.pairwise(later))
