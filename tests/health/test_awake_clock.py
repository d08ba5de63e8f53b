"""Time in which the process stood still is not counted; time in which it waited is."""

import pytest

from trainer.config.run import HealthConfig
from trainer.health.awake_clock import STILL_SECONDS, AwakeClock
from trainer.health.phase_limits import PhaseLimits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Clock:
    return Clock()


@pytest.fixture
def awake(time: Clock):
    clock = AwakeClock(monotonic=time)
    clock.start()
    yield clock
    clock.close()


def wait(time: Clock, awake: AwakeClock, seconds: float) -> None:
    """Let time pass while the thread looks on."""
    for _ in range(round(seconds)):
        time.now += 1
        awake()


def test_time_while_suspended_does_not_count_as_a_hang(time: Clock, awake: AwakeClock) -> None:
    config = HealthConfig(hang_min_seconds=120, startup_seconds=120)
    clock = PhaseLimits(config, clock=awake)
    wait(time, awake, 100)
    time.now += 130
    assert clock.stall() is None
    assert awake() == pytest.approx(1101, abs=1)
    wait(time, awake, 25)
    assert clock.stall() == "start-up at step 0 has taken 126 s, and the limit is 120 s"


def test_being_late_on_a_busy_host_counts(time: Clock, awake: AwakeClock) -> None:
    for _ in range(10):
        time.now += STILL_SECONDS
        awake()
    assert awake() == 1000 + 10 * STILL_SECONDS


def test_the_clock_starts_as_an_ordinary_one(time: Clock) -> None:
    clock = AwakeClock(monotonic=time)
    time.now += 130
    assert clock() == 1130
    clock.close()
