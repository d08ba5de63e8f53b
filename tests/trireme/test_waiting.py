"""A long wait is logged after a while and each time it has doubled; a short one is not."""

import re

from tests.warm import wait_until
from trireme.waiting import log_waiting_for


def test_a_short_wait_is_not_logged() -> None:
    told: list[str] = []
    with log_waiting_for("nothing", after_seconds=60, say=told.append):
        pass
    assert told == []


def test_a_long_wait_is_logged_less_and_less_often() -> None:
    told: list[str] = []
    with log_waiting_for("the others", after_seconds=0.05, say=told.append):
        wait_until(lambda: len(told) == 3, seconds=60)
    assert len(told) == 3
    assert all(re.fullmatch(r"Waiting for the others \(\d+\.\d s so far\)", line) for line in told)
