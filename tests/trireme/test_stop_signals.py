"""Stop signals: which are handled, which are repetitions, and which processes they are forwarded to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.warm import wait_until
from trireme import stop_signals
from trireme.stop_signals import (
    STOP_SIGNALS,
    WARNINGS,
    Repetitions,
    heeded_signals,
    signals_passed_to,
    unwinding_on_signals,
)


@pytest.fixture
def defaults() -> Iterator[None]:
    """Every signal has its default action, whatever these tests were started with."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("defaults")
def test_signals_ignored_by_the_parent_stay_ignored() -> None:
    assert heeded_signals() == list(STOP_SIGNALS)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    assert heeded_signals() == [signal.SIGTERM], "torchrun ends its processes with it"


def test_only_a_later_signal_that_is_no_warning_is_a_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    repetitions = Repetitions()
    assert repetitions.is_request(signal.SIGHUP)
    assert not any(repetitions.is_request(number) for number in STOP_SIGNALS)
    now[0] += 1.1
    assert [number for number in STOP_SIGNALS if repetitions.is_request(number)] == [
        number for number in STOP_SIGNALS if number not in WARNINGS
    ]


SAVES = """
import signal, sys
def save(number, frame):
    print("saved after", signal.Signals(number).name, flush=True)
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, save)
open(sys.argv[1], "w").close()
signal.pause()
"""


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_to_a_child_which_may_save(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    with (
        subprocess.Popen([sys.executable, "-c", SAVES, str(ready)], stdout=subprocess.PIPE, text=True) as process,
        signals_passed_to(process),
    ):
        wait_until(ready.exists, seconds=60)
        os.kill(os.getpid(), number)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (75, f"saved after {number.name}\n")
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.usefixtures("defaults")
def test_a_signal_unwinds_and_exits_with_128_plus_its_number() -> None:
    with pytest.raises(SystemExit) as leaving, unwinding_on_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    assert leaving.value.code == 128 + signal.SIGHUP
