"""Ranks that are forked from their launcher are what torchrun's own processes are, and start with less."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.data.shards import write_shard
from tests.train.commands import REPOSITORY, SMALL, counting_documents, environment

PROBE = '''
"""Says what it finds of a process that torchrun has started."""
import json, os, signal, sys, threading, time
import torch

what, folder = sys.argv[1:]
rank = os.environ["RANK"]
found = {
    "name": __name__, "argv": sys.argv, "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
    "world_size": os.environ["WORLD_SIZE"], "threads": torch.get_num_threads(),
    "has_trainer": "trainer.build" in sys.modules, "gc": __import__("gc").isenabled(),
    "ignored": [int(n) for n in (1, 2, 3, 10, 12) if signal.getsignal(n) == signal.SIG_IGN],
    "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "cwd": os.getcwd(),
}
open(f"{folder}/{rank}.json", "w").write(json.dumps(found))
if what == "waits":
    time.sleep(1000)
if what == "raises" and rank == "1":
    raise LookupError("nothing here")
if what == "says" and rank == "1":
    sys.exit("a word at the end")
if what == "codes" and rank == "1":
    sys.exit(2)
import atexit
threading.Thread(target=lambda: (time.sleep(0.2), open(f"{folder}/{rank}.thread", "w").close())).start()
atexit.register(lambda: open(f"{folder}/{rank}.atexit", "w").close())
sys.stdout.write(f"end of {rank}\\n")  # one write, also where Python does not buffer
'''


def ignore() -> None:
    """Start as under nohup, and as a script starts what it puts into the background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path):
    """Starts the probe on two ranks, cold or forked."""
    (tmp_path / "probe.py").write_text(PROBE)

    def start(what: str, **changes: str) -> "subprocess.Popen[str]":
        torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
        return subprocess.Popen(
            [*torchrun, "--rdzv-endpoint", "localhost:0", "-m", "probe", what, str(tmp_path)],
            cwd=REPOSITORY,
            env=environment(PYTHONPATH=str(tmp_path), OMP_NUM_THREADS="1", **changes),
            preexec_fn=ignore,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def found_by(tmp_path: Path) -> list[dict]:
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_a_forked_rank_finds_what_a_cold_one_finds(start, tmp_path: Path) -> None:
    sides = {}
    for name, changes in (("forked", {}), ("cold", {"TRIREME_FORK_RANKS": "0"})):
        process = start("ends", **changes)
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        assert sorted(output.splitlines()) == ["end of 0", "end of 1"]
        ranks = found_by(tmp_path)
        for rank in ranks:
            assert rank["parent"] == process.pid
            assert rank["ignored"] == [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT]
            assert rank["session"] == rank["pid"], "Ctrl-C reaches the launcher alone"
        for rank in (0, 1):
            (tmp_path / f"{rank}.thread").unlink()
            (tmp_path / f"{rank}.atexit").unlink()
        own = ("pid", "parent", "session", "has_trainer")
        sides[name] = [{key: value for key, value in rank.items() if key not in own} for rank in ranks]
        assert [rank["has_trainer"] for rank in ranks] == [name == "forked"] * 2
    assert sides["forked"] == sides["cold"]


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [("codes", 2, ""), ("says", 1, "a word at the end\n"), ("raises", 1, "LookupError: nothing here\n")],
)
def test_exit_codes_and_last_output_of_ranks_are_passed_on(start, what: str, code: int, said: str) -> None:
    process = start(what)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert errors.endswith(said) and errors.count("Traceback") == (what == "raises")


def test_ranks_end_with_their_launcher_before_and_after_they_begin(start, tmp_path: Path) -> None:
    process = start("waits")
    while not all((tmp_path / f"{rank}.json").exists() for rank in (0, 1)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    ranks = [psutil.Process(child.pid) for child in psutil.Process(process.pid).children()]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not any(rank.is_running() for rank in ranks)


WAITING = """
import os, time
from trainer.forked_ranks import fork_ranks
waiting = fork_ranks(2)
print(*(rank.pid for rank in waiting.ranks), flush=True)
time.sleep(1000)
"""


def test_a_rank_that_never_begins_leaves_when_its_launcher_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ranks = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(ranks) == 2
        process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert alive == []


LIGHT = """
import os, sys
from trainer.forked_ranks import Start, preload, run_module
assert preload()
num_threads = len(os.listdir("/proc/self/task"))
assert num_threads - 1 <= len(os.sched_getaffinity(0)), "a thread that a fork would lose"
assert run_module(Start(module="trainer.train", arguments=tuple(sys.argv[1:]), environment=dict(os.environ))) == 0
heavy = {"wandb", "torch._inductor", "torch._dynamo", "transformers", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("engine", ["deepspeed", "megatron"])
def test_a_run_imports_neither_inductor_nor_wandb_and_ranks_share_no_thread(tmp_path: Path, engine: str) -> None:
    """BLAS may have its pool, which knows of forks (pthread_atfork): one thread a core beside the main one."""
    shard = write_shard(tmp_path / "counting", counting_documents(), with_manifest=True)
    overrides = [*SMALL, f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{tmp_path}'", f"engine={engine}"]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *overrides, "training.train_iters=3"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
