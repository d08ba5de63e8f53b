"""The real command when something goes wrong under it: what ends, how soon, what the user reads, and the exit code."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.data.shards import write_shard
from tests.train.commands import REPOSITORY, SMALL, command_of, counting_documents, environment, losses_of, planted
from tests.trireme.small_disk import fill, small_file_system
from tests.warm import WarmProcess, end_tree, wait_until
from trainer.checkpoint.manifest import read_manifest
from trainer.metrics.jsonl import read_records
from trireme.bad_nodes import read_bad_nodes

ENDLESS = "training.train_iters=100000"
NOISE = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "ChildFailedError", "TCPStore")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("data") / "counting", counting_documents(), with_manifest=True)


class RealRun:
    """One or more launchers that run the same command, their errors in files.

    They start warm, but for those whose tree of processes is what is tested. No limit of time here says how soon a run
    ends on an idle host: each is below what would end it in another way (a hang's 130 s, gloo's 60 s twice).
    """

    def __init__(self, directory: Path, commands: Sequence[list[str]], *, fault: str = "", is_cold: bool) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        changes = planted(fault) if fault else {}
        self._files = [directory.with_name(f"{directory.name}.{number}.err") for number in range(len(commands))]
        start = _start_cold if is_cold else _start_warm
        self.launchers = [
            start(command, environment(**changes), file) for command, file in zip(commands, self._files, strict=True)
        ]

    def wait_for_steps(self, count: int, *, seconds: float = 180) -> None:
        metrics, deadline = self.directory / "metrics.jsonl", time.monotonic() + seconds
        while not metrics.exists() or len(read_records(metrics)) < count:
            assert all(launcher.poll() is None for launcher in self.launchers), self.errors()
            assert time.monotonic() < deadline, f"{count} steps were not taken: {self.errors()}"
            time.sleep(0.05)

    def rank(self, number: int) -> psutil.Process:
        processes = [child for launcher in self.launchers for child in psutil.Process(launcher.pid).children()]
        return next(process for process in processes if process.name() == f"rank {number}")

    def wait(self, *, seconds: float) -> list[int]:
        """Exit codes of the launchers, all of which end within that time."""
        deadline = time.monotonic() + seconds
        try:
            return [launcher.wait(timeout=max(0.1, deadline - time.monotonic())) for launcher in self.launchers]
        finally:
            for launcher in self.launchers:
                if launcher.poll() is None:
                    end_tree(launcher.pid)

    def errors(self) -> list[str]:
        return [file.read_text() for file in self._files]


def _start_cold(command: list[str], env: dict[str, str], errors: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=errors.open("w"))


def _start_warm(command: list[str], env: dict[str, str], errors: Path) -> WarmProcess:
    return WarmProcess(command, cwd=REPOSITORY, env=env, stdout=errors.with_suffix(".out"), stderr=errors)


Start = Callable[..., RealRun]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", kibibytes=256) as place:
        yield place


@pytest.fixture
def start(tmp_path: Path, shard: Path) -> Start:
    def start(
        *overrides: str,
        fault: str = "",
        nodes: int = 1,
        shard: Path = shard,
        output: Path = tmp_path,
        is_cold: bool = False,
    ) -> RealRun:
        run = [f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{output}'", "run_name=run", *overrides]
        if nodes == 1:
            return RealRun(output / "run", [command_of(*SMALL, *run)], fault=fault, is_cold=is_cold)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torchrun = [sys.executable, "-m", "trainer.torchrun", "--nnodes", str(nodes), "--nproc-per-node", "1"]
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "127.0.0.1"]
        command = [*torchrun, *rendezvous, "-m", "trainer.train", *SMALL, *run]
        return RealRun(output / "run", [command] * nodes, fault=fault, is_cold=is_cold)

    return start


def _drain(terminal: int) -> None:
    """Read what comes, as a terminal does, until it is closed."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


def assert_quiet(errors: str) -> None:
    assert [noise for noise in NOISE if noise in errors] == []


def test_a_rank_that_is_killed_ends_the_others_and_is_named(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", is_cold=True)
    run.wait_for_steps(3)
    other, victim = run.rank(0), run.rank(1)
    victim.kill()
    assert run.wait(seconds=60) == [128 + signal.SIGKILL]
    assert not other.is_running()
    (errors,) = run.errors()
    assert f"Rank 1 (pid {victim.pid}) was killed by signal 9 (SIGKILL)" in errors
    assert "Traceback" not in errors
    assert_quiet(errors)
    assert "will finish the current step" not in errors, "torchrun's SIGTERM is no request from outside"


def test_a_rank_that_raises_ends_the_others_and_its_traceback_is_the_only_one(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", fault="raise:1:4")
    run.wait_for_steps(3)
    assert run.wait(seconds=60) == [1]
    (errors,) = run.errors()
    assert errors.count("Traceback (most recent call last)") == 1
    assert "[rank 1] ZeroDivisionError: planted" in errors
    assert_quiet(errors)
    log = (run.directory / "logs" / "rank_000.log").read_text()
    assert "another rank has exited" in log or "Exiting: " in log, "what the others met is kept"


def test_a_rank_that_is_killed_on_another_node_ends_all_nodes(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", nodes=2, is_cold=True)
    run.wait_for_steps(3)
    run.rank(1).kill()
    assert sorted(run.wait(seconds=60)) == [81, 128 + signal.SIGKILL]
    errors = "\n".join(run.errors())
    assert "was killed by signal 9 (SIGKILL)" in errors
    assert "Traceback" not in errors
    assert_quiet(errors)


def test_a_rank_that_is_stopped_is_named_by_the_others(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", "health.hang_min_seconds=4", "health.heartbeat_seconds=0.5")
    run.wait_for_steps(4)
    stopped = run.rank(1)
    stopped.suspend()
    assert run.wait(seconds=120) == [79]
    assert not stopped.is_running()
    (errors,) = run.errors()
    assert re.search(
        r"The run hangs: step \d+ has taken \d+ s, and the limit is \d+ s\. Rank 1 no longer responds\.", errors
    )
    said = r"rank 1 \(pid \d+ on \S+\) has not responded for \d+ s; its last heartbeat was at step \d+"
    assert re.search(said, errors)
    assert "its process is in state T (stopped)" in errors
    assert re.search(r"rank 0 at step \d+, waiting in \w+ over", errors)
    assert_quiet(errors)


@pytest.mark.long
def test_a_suspended_run_is_not_reported_as_hung(start: Start) -> None:
    limits = ("health.hang_min_seconds=4", "health.heartbeat_seconds=0.5", "cluster.timeout_seconds=5")
    run = start("training.train_iters=60", "parallel=dp2", *limits)
    run.wait_for_steps(4)
    processes = [psutil.Process(run.launchers[0].pid), run.rank(0), run.rank(1)]
    for process in processes:
        process.suspend()
    time.sleep(8)
    for process in processes:
        process.resume()
    assert run.wait(seconds=120) == [0], run.errors()
    assert list(losses_of(run.directory)) == list(range(1, 61))


def test_a_run_whose_terminal_closes_saves_and_leaves(tmp_path: Path, shard: Path) -> None:
    ours, terminal = os.openpty()
    command = command_of(*SMALL, ENDLESS, f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{tmp_path}'")
    process = subprocess.Popen(
        [*command, "run_name=run"],
        cwd=REPOSITORY,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    reader = threading.Thread(target=_drain, args=(ours,), daemon=True)
    reader.start()
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(read_records(metrics)) > 3, seconds=180)
    os.close(ours)
    assert process.wait(timeout=120) == 75
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.name == f"step_{max(losses_of(tmp_path / 'run')):08d}"


def test_a_request_to_stop_ends_a_validation_and_the_next_start_makes_it_up(start: Start, shard: Path) -> None:
    validating = (
        f"data.validation=[{{paths:['{shard}']}}]",
        *("training.eval_interval=3", "training.eval_iters=4", "checkpoint.save_interval=3", "parallel=dp2"),
    )
    run = start("training.train_iters=6", *validating, fault="stop_validation:1:3")
    assert run.wait(seconds=180) == [75], run.errors()
    (checkpoint,) = (run.directory / "checkpoints").iterdir()
    assert (checkpoint.name, read_manifest(checkpoint).validation_loss) == ("step_00000003", None)
    again = start("training.train_iters=6", *validating)
    assert again.wait(seconds=180) == [0], again.errors()
    whole = start("training.train_iters=6", *validating, "run_name=whole")
    assert whole.wait(seconds=180) == [0], whole.errors()
    stopped, uninterrupted = (
        [(record["kind"], record["step"], record["loss"]) for record in read_records(directory / "metrics.jsonl")]
        for directory in (run.directory, run.directory.with_name("whole"))
    )
    assert stopped == uninterrupted
    assert [step for kind, step, _ in stopped if kind == "validation"] == [3, 6]
    for directory in (run.directory, run.directory.with_name("whole")):
        for step in (3, 6):
            manifest = read_manifest(directory / "checkpoints" / f"step_{step:08d}")
            (loss,) = [loss for kind, at, loss in stopped if (kind, at) == ("validation", step)]
            assert manifest.validation_loss == loss


def test_a_blocking_rank_is_distinguished_from_waiting_ones(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", "health.hang_min_seconds=4", fault="hang:1:5")
    assert run.wait(seconds=120) == [79]
    (errors,) = run.errors()
    assert "has taken" in errors and "Rank 1 is blocking the others" in errors
    assert re.search(r"rank 1 \(pid \d+ on \S+\): step 5\n    at _hold_everyone_up \(\S*sitecustomize.py:\d+\)", errors)
    assert re.search(r"rank 0 at step 5, waiting in \w+ over .*; last collective: gloo:\w+ number \d+ of group", errors)
    assert "_hold_everyone_up" in (run.directory / "logs" / "rank_001.stacks.txt").read_text()
    for rank in (0, 1):
        recorded = json.loads((run.directory / "logs" / f"rank_{rank:03d}.collectives.json").read_text())
        assert recorded["entries"]
    assert read_bad_nodes(run.directory) == ["n1"]


def test_a_slow_rank_is_named(start: Start) -> None:
    slow = start(
        "training.train_iters=40",
        "parallel=dp2",
        "health.straggler_interval=20",
        "health.replica_check_interval=5",
        "engine=megatron",
        fault="slow:1:1",
    )
    assert slow.wait(seconds=180) == [0], slow.errors()
    (errors,) = slow.errors()
    assert re.search(r"warning: Step \d+: rank 1 \(pid \d+ on \S+\) is a straggler: it computes", errors)
    compared = [record for record in read_records(slow.directory / "metrics.jsonl") if "slowest_rank" in record]
    assert [record["step"] for record in compared] == [20, 40]
    assert compared[1]["slowest_rank"] == 1 and compared[1]["slowest_rank_ratio"] > 1.5


def test_a_flipped_bit_stops_the_run(start: Start) -> None:
    run = start(ENDLESS, "parallel=dp2", "engine.zero_stage=0", "health.replica_check_interval=5", fault="flip:1:8")
    assert run.wait(seconds=180) == [80], run.errors()
    (errors,) = run.errors()
    assert errors.count("After step 10, replicas of the same weights differ:") == 1
    assert re.search(r"rank 0 \(pid .* and rank 1 \(pid .* disagree, without a majority, in chunk0", errors)
    assert "Traceback" not in errors


def test_a_shard_that_is_cut_under_the_run_is_named(start: Start, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shrinks", counting_documents())
    run = start(ENDLESS, "parallel=dp2", shard=shard)
    run.wait_for_steps(3)
    size = os.path.getsize(f"{shard}.bin")
    os.truncate(f"{shard}.bin", 1000)
    assert run.wait(seconds=60) == [2]
    (errors,) = run.errors()
    assert f"{shard}.bin: had {size} bytes when the run started (got 1000 bytes). Restore the original file" in errors
    step = int(re.search(r"Cannot take step (\d+): ", errors)[1])  # type: ignore[index]
    assert f"\nSaved step {step - 1}.\n" in errors
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == [f"step_{step - 1:08d}"]
    assert "Traceback" not in errors and "nothing was started" not in errors
    assert_quiet(errors)


def test_a_full_disk_costs_a_warning_and_no_record(start: Start, small_disk: Path) -> None:
    run = start("training.train_iters=300", "checkpoint=off", output=small_disk)
    run.wait_for_steps(3)
    filler = fill(small_disk)
    deadline = time.monotonic() + 60
    while "metrics.jsonl: cannot be written" not in run.errors()[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    filler.unlink()
    assert run.wait(seconds=120) == [0], run.errors()
    (errors,) = run.errors()
    assert errors.count("metrics.jsonl: cannot be written (No space left on device)") == 1
    assert errors.count("metrics.jsonl: can be written again") == 1
    assert list(losses_of(run.directory)) == list(range(1, 301))
