"""One job at a time: who holds a run directory, and who is dead."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.run_directory import lock as run_lock
from trainer.run_directory.lock import LOCK_NAME, RunLock
from trireme.errors import ConfigError

HOLD = (
    "import pathlib, sys, time; from trainer.run_directory.lock import RunLock;"
    "lock = RunLock(pathlib.Path(sys.argv[1])); lock.__enter__(); print('held', flush=True); time.sleep(600)"
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.1)


def _pretend(path: Path, **changes: object) -> None:
    """Change what a lock says of its owner."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _left_behind(run: Path, **changes: object) -> Path:
    """A lock whose owner did not remove it."""
    path = run / LOCK_NAME
    with RunLock(run):
        content = path.read_text()
    path.write_text(content)
    _pretend(path, token="another", **changes)
    return path


def test_a_lock_is_there_while_it_is_held(tmp_path: Path) -> None:
    run = tmp_path / "new"
    with RunLock(run):
        first = (run / LOCK_NAME).stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while (run / LOCK_NAME).stat().st_mtime_ns <= first:
            assert time.monotonic() < deadline, "touched again and again"
            time.sleep(0.01)
    assert list(run.iterdir()) == []


def test_a_second_job_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(
            ConfigError,
            match=rf"is in use: .* \(pid {holder.pid}\) is writing to .* Wait for that job, stop it, or use",
        ):
            RunLock(tmp_path).__enter__()
        assert (tmp_path / LOCK_NAME).exists()
    finally:
        holder.kill()
        holder.wait()
    with RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [], "what the killed one left is taken over at once"


def test_a_reused_process_id_does_not_keep_a_lock_alive(tmp_path: Path) -> None:
    _left_behind(tmp_path, started=1.0)
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_stale_lock_of_another_host_is_taken_over(tmp_path: Path, content: str | None) -> None:
    path = _left_behind(tmp_path, machine="elsewhere", host="node7")
    if content is not None:
        path.write_text(content)
    start = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - start > 1.0
        assert json.loads(path.read_text())["token"] != "another"
    assert list(tmp_path.iterdir()) == []


def _while_it_waits(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act after the first look at the lock; without that nobody would take it over within the test's time."""
    acts, settle = [act], time.sleep

    def act_once(seconds: float) -> None:
        while acts:
            acts.pop()()
        settle(min(seconds, 0.1))

    monkeypatch.setattr(run_lock.time, "sleep", act_once)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 600.0)


def test_a_refreshed_lock_of_another_host_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _left_behind(tmp_path, machine="elsewhere", host="node7")
    _while_it_waits(path.touch, monkeypatch)
    with pytest.raises(ConfigError, match=r"node7 \(pid \d+\) is writing"):
        RunLock(tmp_path).__enter__()


def test_a_lock_released_while_waiting_is_acquired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _left_behind(tmp_path, machine="elsewhere")
    _while_it_waits(path.unlink, monkeypatch)
    with RunLock(tmp_path):
        assert json.loads(path.read_text())["token"] != "another"


def test_of_two_jobs_that_take_over_a_lock_the_last_writer_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _left_behind(tmp_path, machine="elsewhere")
    settle = time.sleep

    def other_writes(seconds: float) -> None:
        if seconds == 0.1 and json.loads(path.read_text())["token"] != "another":
            _pretend(path, token="the other one", host="node8")
        settle(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", other_writes)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="node8 .pid"):
        RunLock(tmp_path).__enter__()


def test_a_process_whose_lock_was_taken_over_exits(tmp_path: Path) -> None:
    program = HOLD.replace("lock = ", "import trainer.run_directory.lock as m; m.HEARTBEAT_SECONDS = 0.1; lock = ")
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    _pretend(tmp_path / LOCK_NAME, token="another", host="node9", pid=77)
    _, errors = holder.communicate(timeout=30)
    assert holder.returncode == 1
    assert "was taken over by node9 (pid 77)" in errors
    assert (tmp_path / LOCK_NAME).exists(), "it is another one's"
