"""Stopping on a signal: all ranks agree, the second request leaves at once, former handlers come back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.distributed.harness import run_distributed
from trainer.loop.signals import StopRequest
from trireme import stop_signals
from trireme.errors import EXIT_PEER_FAILED, EXIT_REQUEUE
from trireme.processes import EXIT_CODE_FILE, read_exit_code
from trireme.stop_signals import STOP_SIGNALS

CPU = torch.device("cpu")

STUCK = """
import ctypes
import sys
from trainer.loop.signals import StopRequest
with StopRequest() as stop:
    if sys.argv[1] == "training":
        stop.defer()
    print("ready", flush=True)
    # A lock that is never free: without coming back to Python, as a collective operation whose other ranks are gone.
    lock = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Every signal has its default action, whatever these tests were started with."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def is_agreed(stop: StopRequest) -> bool:
    return stop.agree(device=CPU)[0]


def wait_until_asked(stop: StopRequest) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if is_agreed(stop):
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered(number: signal.Signals) -> None:
    with StopRequest() as stop:
        stop.defer()
        assert not is_agreed(stop)
        os.kill(os.getpid(), number)
        assert wait_until_asked(stop)
        assert is_agreed(stop), "and stays"


def test_a_signal_that_is_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_until_asked(stop)
        assert stop._signal == signal.SIGTERM


def test_former_handlers_come_back() -> None:
    former = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(KeyError), StopRequest():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != former
        raise KeyError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == former
    assert signal.set_wakeup_fd(-1) == -1


def test_a_repetition_right_after_the_first_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ctrl-C reaches every process of the terminal, and torchrun then passes it on: twice within moments.
    left: list[int] = []
    now = [100.0]
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    stop = StopRequest()
    stop.defer()
    stop._handle(signal.SIGINT)
    now[0] += 0.9
    stop._handle(signal.SIGINT)
    stop._handle(signal.SIGTERM)
    assert left == []
    now[0] += 0.2
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        stop._handle(number)
    assert left == [], "a warning that is given twice is still a warning"
    stop._handle(signal.SIGTERM)
    assert left == [EXIT_REQUEUE]


def start_stuck(phase: str, code_file: Path) -> subprocess.Popen[str]:
    """A process that will not come back to Python."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, phase],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, EXIT_CODE_FILE: str(code_file)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_second_signal_ends_a_process_that_is_stuck(tmp_path: Path) -> None:
    process = start_stuck("training", tmp_path / "code")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "will finish the current step, save a checkpoint and exit. Send it again" in process.stderr.readline()
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == EXIT_REQUEUE
    assert read_exit_code(tmp_path / "code") == EXIT_REQUEUE


def test_a_signal_before_training_leaves_at_once(tmp_path: Path) -> None:
    process = start_stuck("building", tmp_path / "code")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == EXIT_REQUEUE
    assert read_exit_code(tmp_path / "code") == EXIT_REQUEUE


def test_a_process_does_not_wait_for_one_that_has_failed(tmp_path: Path) -> None:
    process = start_stuck("training", tmp_path / "code")
    (tmp_path / "code").write_text("1")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == EXIT_PEER_FAILED
    assert read_exit_code(tmp_path / "code") == 1


def _ask_one_rank() -> list[bool]:
    with StopRequest() as stop:
        stop.defer()
        answers = [is_agreed(stop)]
        if distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            while stop._signal is None:  # a thread takes it
                time.sleep(0.005)
        answers.append(is_agreed(stop))
    return answers


def test_a_signal_to_one_rank_stops_all() -> None:
    assert run_distributed(_ask_one_rank, 2) == [[False, True]] * 2
