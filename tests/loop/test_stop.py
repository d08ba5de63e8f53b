"""Stopping on a signal: all ranks agree, the second request leaves at once, former handlers come back."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import distributed

from tests.distributed.harness import run_distributed
from trainer.common.errors import EXIT_REQUEUE
from trainer.loop.stop import SIGNALS, StopRequest

CPU = torch.device("cpu")

PATIENT = """
import sys, time
from trainer.loop.stop import StopRequest
with StopRequest():
    print("ready", flush=True)
    time.sleep(20)
    print("woke", flush=True)
"""


def test_nothing_is_asked_at_first_and_a_signal_is_remembered() -> None:
    for number in SIGNALS:
        with StopRequest() as stop:
            assert not stop.is_agreed(device=CPU)
            os.kill(os.getpid(), number)
            assert stop.is_agreed(device=CPU), signal.Signals(number).name
            assert stop.is_agreed(device=CPU), "and stays"


def test_former_handlers_come_back() -> None:
    former = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError), StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != former
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == former


def test_a_repetition_right_after_the_first_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ctrl-C reaches every process of the terminal, and torchrun then passes it on: twice within moments.
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == []
        now[0] += 0.2
        os.kill(os.getpid(), signal.SIGUSR1)
        assert left == [], "a warning that is given twice is still a warning"
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == [EXIT_REQUEUE]


def test_the_second_signal_ends_a_process_that_is_stuck() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PATIENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == ""
    assert process.returncode == EXIT_REQUEUE


def _ask_one_rank() -> list[bool]:
    with StopRequest() as stop:
        answers = [stop.is_agreed(device=CPU)]
        if distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        answers.append(stop.is_agreed(device=CPU))
    return answers


def test_one_rank_that_is_asked_stops_all() -> None:
    assert run_distributed(_ask_one_rank, 2) == [[False, True]] * 2
