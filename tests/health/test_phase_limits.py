"""How long a phase may take: fixed, or relative to the steps before."""

import pytest

from trainer.config.run import HealthConfig
from trainer.health.phase_limits import PhaseLimits

CONFIG = HealthConfig(
    hang_step_multiple=10, hang_min_seconds=5, startup_seconds=300, validation_seconds=200, checkpoint_seconds=100
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Clock:
    return Clock()


def take_steps(clock: PhaseLimits, time: Clock, seconds: list[float]) -> None:
    for step, duration in enumerate(seconds, start=1):
        clock.enter("step", step=step)
        time.now += duration
    clock.enter("step", step=len(seconds) + 1)


def test_the_first_step_has_the_time_of_the_start(time: Clock) -> None:
    clock = PhaseLimits(CONFIG, clock=time)
    assert clock.limit_seconds() == 300
    time.now = 299
    assert clock.stall() is None
    clock.enter("step", step=1)
    time.now += 299
    assert clock.stall() is None
    time.now += 2
    assert clock.stall() == "step 1 has taken 301 s, and the limit is 300 s"


def test_a_step_may_take_a_multiple_of_the_median_and_never_less_than_the_minimum(time: Clock) -> None:
    clock = PhaseLimits(CONFIG, clock=time)
    take_steps(clock, time, [100, 0.1, 0.2, 0.1])
    assert clock.limit_seconds() == 5
    clock = PhaseLimits(CONFIG, clock=time)
    take_steps(clock, time, [100, 2, 2, 50, 2])
    assert clock.limit_seconds() == 20
    time.now += 21
    assert clock.stall() == "step 6 has taken 21 s, and the limit is 20 s"
    clock.enter("step", step=7)
    assert clock.stall() is None


def test_validation_and_saving_have_limits_of_their_own_and_count_as_no_step(time: Clock) -> None:
    clock = PhaseLimits(CONFIG, clock=time)
    take_steps(clock, time, [1, 1, 1])
    clock.enter("validation", step=3)
    time.now += 199
    assert (clock.limit_seconds(), clock.stall()) == (200, None)
    clock.enter("checkpoint", step=3)
    time.now += 101
    assert clock.stall() == "checkpoint at step 3 has taken 101 s, and the limit is 100 s"
    clock.enter("step", step=4)
    assert clock.limit_seconds() == 10
