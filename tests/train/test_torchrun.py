"""torchrun with processes that import nothing: their exit codes, and signals, come through."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.train.commands import REPOSITORY, environment
from tests.warm import wait_until
from trireme.processes import CONFIG_DESCRIPTOR, config_handed_over
from trireme.stop_signals import STOP_SIGNALS

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
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)
if what == "address":
    os.write(1, f"{os.environ['MASTER_ADDR']} {os.environ['GLOO_SOCKET_IFNAME']}\\n".encode())
    sys.exit()
if what == "config":
    assert not any("CONFIG_DESCRIPTOR" in name for name in os.environ)
    path = sys.argv[2].removeprefix("config_file=")
    os.write(1, f"{path} {open(path).read()}".encode())
    sys.exit()
if what == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "killed":
    sys.exit(1)  # as one does whose peer is gone
os.write(1, b"ready\\n")
time.sleep(30)
"""


def start(
    tmp_path: Path, what: str, *, ignored: Sequence[int] = (), pass_fds: Sequence[int] = (), **changes: str
) -> subprocess.Popen[str]:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)

    def set_signals() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return subprocess.Popen(
        [*torchrun, "--rdzv-endpoint", "localhost:0", str(worker), what],
        cwd=REPOSITORY,
        env=environment(**changes),
        preexec_fn=set_signals,
        pass_fds=pass_fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_configuration_that_the_launcher_hands_over_is_read_by_every_process_and_then_gone(tmp_path: Path) -> None:
    with config_handed_over("seed: 7\n") as handed:
        process = start(tmp_path, "config", pass_fds=[int(handed[CONFIG_DESCRIPTOR])], **handed)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    first, second = output.splitlines()
    assert first == second and first.endswith("config.yaml seed: 7")
    assert not Path(first.partition(" ")[0]).parent.exists()


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
    assert errors.startswith("Rank 1 (pid ")
    assert errors.endswith(") was killed by signal 9 (SIGKILL); unless someone sent it, the host ran out of memory.\n")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_reaches_the_processes_and_their_code_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "waits")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "")


def start_waiting(tmp_path: Path, *, ignored: Sequence[int] = ()) -> subprocess.Popen[str]:
    process = start(tmp_path, "waits", ignored=ignored)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    return process


def all_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert len(found) == 3
    return found


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "")


def test_signals_that_nohup_ignores_stay_ignored(tmp_path: Path) -> None:
    process = start_waiting(tmp_path, ignored=(signal.SIGHUP, signal.SIGUSR2))
    for one in all_of(process):
        one.send_signal(signal.SIGHUP)
        one.send_signal(signal.SIGUSR2)
    time.sleep(0.5)
    assert process.poll() is None and len(all_of(process)) == 3
    end(process)


def test_a_terminal_that_closes_sends_sighup_several_times(tmp_path: Path) -> None:
    process = start_waiting(tmp_path)
    for _ in range(4):
        if process.poll() is None:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
    process.communicate(timeout=60)
    assert process.returncode == 75, "the launcher waits for its processes"


def test_ctrl_z_stops_the_processes_too_and_they_are_continued(tmp_path: Path) -> None:
    process = start_waiting(tmp_path)
    processes = all_of(process)
    process.send_signal(signal.SIGTSTP)
    wait_until(lambda: all(one.status() == psutil.STATUS_STOPPED for one in processes), seconds=60)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: all(one.status() != psutil.STATUS_STOPPED for one in processes), seconds=60)
    end(process)


NAMELESS = """
import socket
socket.getfqdn = socket.gethostname = lambda *name: "no-such-host.invalid"
"""


def test_a_host_whose_name_does_not_resolve(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAMELESS)
    process = start(tmp_path, "address", PYTHONPATH=str(tmp_path))
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines() == ["127.0.0.1 lo"] * 2


IMPATIENT = """
import trireme.waiting
trireme.waiting.log_waiting_for.__wrapped__.__kwdefaults__["after_seconds"] = 1
"""


def test_a_launcher_that_waits_for_other_hosts_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nnodes", "2", "--nproc-per-node", "1"]
    with subprocess.Popen(
        [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", place, "worker.py"],
        cwd=REPOSITORY,
        env=environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.kill()
    assert said.startswith(f"Waiting for 2 hosts to join torchrun's rendezvous at {place} (")
