"""torchrun with processes that import nothing: their exit codes, and signals, come through."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.commands import REPOSITORY, environment

WORKER = """
import os, signal, sys, time

rank, what = os.environ["RANK"], sys.argv[1]
def leave(number, frame):
    open(os.environ["TRIREME_EXIT_CODE_FILE"], "w").write("75")
    sys.exit(75)
if what == "refused" and rank == "1":
    sys.exit(2)
if what == "raises" and rank == "1":
    sys.exit(1)
if what == "waits":
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, leave)
if what == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "killed":
    sys.exit(1)  # as one does whose peer is gone
os.write(1, b"ready\\n")
time.sleep(30)
"""


def start(tmp_path: Path, what: str) -> subprocess.Popen[str]:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return subprocess.Popen(
        [*torchrun, "--rdzv-endpoint", "localhost:0", str(worker), what],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("what", "code"), [("refused", 2), ("raises", 1)])
def test_the_code_of_the_process_that_failed_and_not_of_the_one_that_torchrun_ended(
    tmp_path: Path, what: str, code: int
) -> None:
    process = start(tmp_path, what)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")


def test_a_process_that_the_system_ended_is_named_also_when_others_failed_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, "killed")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert errors.startswith("rank 1 (pid ")
    assert errors.endswith(") was ended by signal 9 (SIGKILL; if nobody sent it, the host ran out of memory)\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_processes_and_their_code_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "waits")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "")
