"""The real command, and what a user reads. torchrun is replaced by a small stand-in where it would start."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import warm
from tests.data.shards import write_shard
from tests.train.commands import SMALL, counting_documents, losses_of
from trireme.config.override_line import quote_text

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = ("model.vocab_size=8000", "data.train=[{paths:[/data/wiki]}]")

TORCHRUN = """
import json, os, signal, sys, time
from types import SimpleNamespace

def parse_args(arguments):
    place = dict(standalone=False, nnodes="1", rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", master_addr="")
    return SimpleNamespace(module=True, no_python=False, master_port=0, nproc_per_node="1", **place)

def main():
    print(json.dumps([os.getpid(), sys.argv[1:], os.environ["OMP_NUM_THREADS"]]), flush=True)
    if "run_name: waits" in open(sys.argv[-1].partition("=")[2]).read():
        def leave(number, frame):
            print("got", signal.Signals(number).name, flush=True)
            sys.exit(9)
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)
        print("ready", flush=True)
        time.sleep(60)
    sys.exit(7)
"""
# What else trainer.torchrun takes from torch.
OTHERS = {
    "elastic/multiprocessing/__init__.py": (
        "from types import SimpleNamespace\nclass SignalException(Exception): pass\n"
        "api = SimpleNamespace(get_subprocess_handler=None, _terminate_process_handler=None)\n"
    ),
    "elastic/multiprocessing/subprocess_handler/__init__.py": "class SubprocessHandler: pass",
    "elastic/multiprocessing/errors.py": "class ChildFailedError(Exception): pass",
}


def environment(**changes: str) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}, **changes}


def launch(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command warm."""
    return warm.run(command_of(*arguments), cwd=REPOSITORY, env=environment(**changes))


def launch_cold(*arguments: str, stand_in: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a new interpreter, which finds the stand-in for torch."""
    return subprocess.run(
        command_of(*arguments),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(PYTHONPATH=str(stand_in), TRIREME_FORK_RANKS="0"),
    )


def command_of(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "launch.local", *arguments]


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH whose torch is only a torchrun that says how it was called."""
    package = tmp_path / "torch" / "distributed"
    package.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(TORCHRUN)
    for name, text in OTHERS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return tmp_path


def test_every_problem_is_printed_and_nothing_is_started(stand_in: Path) -> None:
    result = launch_cold(
        "--prnt",
        "model=lama_8b",
        "+model.foo=1",
        "parallel.pipeline_model_parallel_size=3",
        "engine.zero_stage=4",
        "optimizer.lr=fast",
        "data.train=[]",
        stand_in=stand_in,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == "6 errors; nothing was started:"
    assert [line.split(". ", 1)[1].partition(": ")[0] for line in lines[1:]] == [
        "--prnt",
        "model",
        "model.foo",
        "optimizer.lr",
        "engine.zero_stage",
        "data.train",
    ]
    assert lines[2] == "  2. model: no such preset 'lama_8b'. Did you mean llama_8b?"


def test_broken_rules_are_printed_when_the_form_is_right() -> None:
    nodes = ("cluster.gpus_per_node=4", "cluster.num_nodes=2")
    result = launch(*GOOD, "parallel=tp2_pp2", "model.num_layers=7", *nodes)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "3 errors; nothing was started:"
    assert "data.train[0].paths[0]: no such shard: neither its .bin nor its .idx file exists" in result.stderr
    assert "model.num_layers: must be a multiple of parallel.pipeline_model_parallel_size=2 (got 7)" in result.stderr
    assert "cluster.num_nodes: must be 1: trireme local starts processes on this host only (got 2)" in result.stderr
    result = launch(*GOOD, "parallel=tp2_pp2", "cluster.gpus_per_node=6")
    assert "world_size: must be a multiple of parallel.tensor_model_parallel_size=2" in result.stderr


def test_print_shows_the_command() -> None:
    overrides = (*GOOD, "parallel=tp2_pp2", "run_name='ab'")
    result = launch("--print", *overrides, OMP_NUM_THREADS="5")
    assert (result.returncode, result.stderr) == (0, "")
    setting, order, *command = shlex.split(result.stdout)
    assert (setting, order) == ("OMP_NUM_THREADS=5", "CUDA_DEVICE_MAX_CONNECTIONS=1"), "Megatron-Core asks for it"
    assert command == [
        sys.executable,
        *("-m", "trainer.torchrun", "--nproc-per-node", "4", "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", "127.0.0.1:0", "-m", "trainer.train"),
        *overrides,
    ]


@pytest.mark.parametrize(
    ("overrides", "num_processes"),
    [
        ((), 1),
        (("parallel=dp2_pp2",), 4),
        (("parallel.context_parallel_size=2",), 2),
        (("cluster.gpus_per_node=2", "parallel=tp2"), 2),
        (("cluster=h100",), 8),
    ],
)
def test_processes_are_counted_and_share_the_cores(overrides: tuple[str, ...], num_processes: int) -> None:
    words = shlex.split(launch("--print", *GOOD, *overrides).stdout)
    assert words[words.index("--nproc-per-node") + 1] == str(num_processes)
    assert words[0] == f"OMP_NUM_THREADS={max(1, len(os.sched_getaffinity(0)) // num_processes)}"


def test_config_shows_everything() -> None:
    result = launch("--config", *GOOD, "training.seed=77")
    assert result.returncode == 0
    shown = yaml.safe_load(result.stdout)
    assert shown["training"]["seed"] == 77
    assert shown["checkpoint"]["verify"] is True
    assert shown["data"]["train"] == [{"paths": ["/data/wiki"], "weight": 1.0}]


def test_config_is_shown_before_data_exist(tmp_path: Path) -> None:
    missing = (f"tokenizer.path={tmp_path}/tokenizer.model", "data.train=[]", "cluster.num_nodes=2")
    result = launch("--config", "parallel=tp2", *missing)
    assert result.returncode == 0
    assert yaml.safe_load(result.stdout)["tokenizer"]["path"] == f"{tmp_path}/tokenizer.model"
    lines = result.stderr.splitlines()
    assert lines[0] == "3 errors; this configuration cannot be started yet:"
    for line, path in zip(lines[1:], ("tokenizer.path", "data.train", "cluster.num_nodes"), strict=True):
        assert f". {path}: " in line
    assert launch("parallel=tp2", *missing).returncode == 2, "it is not started"
    unusable = launch("--config", "parallel=tp3", "--prnt")
    assert (unusable.returncode, unusable.stdout) == (2, "")
    assert "parallel: no such preset 'tp3'" in unusable.stderr and "--prnt: unknown option" in unusable.stderr


def test_help() -> None:
    for option in ("--help", "-h"):
        result = launch(option)
        assert result.returncode == 0
        assert "usage: trireme local" in result.stdout
        assert "Exit codes: 0 done; 2 bad configuration" in result.stdout


def test_torchrun_takes_over_and_its_exit_code_is_passed_on(stand_in: Path) -> None:
    result = launch_cold(*GOOD, "parallel=dp2", stand_in=stand_in)
    assert result.returncode == 7
    said = "Importing PyTorch, Megatron-Core and DeepSpeed for run default (2 processes)\n"
    assert result.stderr == said, "at once, by the launcher itself"
    (_, arguments, _) = yaml.safe_load(result.stdout)
    assert arguments[:2] == ["--nproc-per-node", "2"]
    assert arguments[-3:-1] == ["-m", "trainer.train"]
    assert arguments[-1].startswith("config_file="), "no override: ranks read what was composed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_torchrun_and_leave_no_file_behind(stand_in: Path, number: signal.Signals) -> None:
    temporary = stand_in / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        command_of(*GOOD, "run_name=waits"),
        cwd=REPOSITORY,
        env=environment(PYTHONPATH=str(stand_in), TRIREME_FORK_RANKS="0", TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid, *_ = yaml.safe_load(process.stdout.readline())
    assert pid == process.pid
    assert process.stdout.readline() == "ready\n"
    assert [path.name for path in temporary.rglob("*.yaml")] == ["config.yaml"]
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == f"got {number.name}\n"
    assert process.returncode == 9
    assert list(temporary.iterdir()) == []


COUNTING = """
import os
from trireme.config import compose
once = compose._compose_groups
def compose_and_note(*arguments):
    with open(os.environ["COMPOSED"], "a") as file:
        file.write(f"{os.environ.get('RANK', 'launcher')}\\n")
    return once(*arguments)
compose._compose_groups = compose_and_note
"""


@pytest.mark.long
def test_the_configuration_is_composed_once_and_ranks_read_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    (tmp_path / "temporary").mkdir()
    shard = write_shard(tmp_path / "counting", counting_documents(num_tokens=2000), with_manifest=True)
    data = (f"data.train=[{{paths:[{shard}]}}]", f"data.validation=[{{paths:[{shard}]}}]", "training.eval_iters=1")
    steps = ("training.train_iters=4", "training.stop_after_step=1")
    overrides = (*SMALL, *data, *steps, f"output_dir={tmp_path}/runs", "run_name=a", "parallel=dp2")
    shown = launch("--config", *overrides)
    notes = tmp_path / "composed"
    changes = {"PYTHONPATH": str(tmp_path), "COMPOSED": str(notes), "TMPDIR": str(tmp_path / "temporary")}
    done = launch(*overrides, **changes)
    assert done.returncode == 0, done.stderr
    assert notes.read_text() == "launcher\n"
    assert (tmp_path / "runs" / "a" / "config.yaml").read_text() == shown.stdout
    assert not list((tmp_path / "temporary").glob("trireme-*"))


@pytest.mark.long
def test_a_run_may_live_in_a_directory_of_any_name(tmp_path: Path) -> None:
    place = tmp_path / """größe '"#&!()[]{}=,; $HOME `x` 数据"""
    place.mkdir()
    shard = quote_text(str(write_shard(place / "counting", counting_documents(num_tokens=2000), with_manifest=True)))
    data = (f"data.train=[{{paths:[{shard}]}}]", f"data.validation=[{{paths:[{shard}]}}]", "training.eval_iters=1")
    output = f"output_dir={quote_text(str(place / 'runs'))}"
    steps = ("training.train_iters=4", "checkpoint.save_interval=2", "training.stop_after_step=2")
    assert launch(*SMALL, *data, output, *steps, "run_name=a").returncode == 0
    # From what the run has saved, as scripts do.
    saved = f"config_file={place}/runs/a/config.yaml"
    done = launch(saved, "training.stop_after_step=null")
    assert done.returncode == 0, done.stderr
    assert list(losses_of(place / "runs" / "a")) == [1, 2, 3, 4]


def test_torch_is_never_imported() -> None:
    code = (
        "import sys; sys.argv[1:] = sys.argv[2:]; from launch.local import main; code = main();"
        " heavy = {'torch', 'megatron', 'deepspeed', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        " sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--"]
    good = subprocess.run([*command, "--print", *GOOD], cwd=REPOSITORY, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run([*command, "model=x"], cwd=REPOSITORY, capture_output=True, text=True)
    assert bad.returncode == 2, bad.stderr
