"""The command, on good and on bad input: once as users start it, else in this process."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.preflight.__main__ import run
from launch.preflight.cli import CHECKS
from tests.data.shards import write_counting_shard
from trainer import check_inputs
from trireme.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = ("model=quickstart", "model.vocab_size=512", "model.seq_length=32")

Preflight = Callable[..., tuple[int, str]]


@pytest.fixture
def preflight(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Preflight:
    """The command, and the process that it starts for the inputs, in this process: exit code, and what it printed."""

    def check_here(
        command: Sequence[str], *, capture_output: bool, text: bool, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        assert list(command[:5]) == [sys.executable, "-W", "ignore", "-m", "trainer.check_inputs"]
        assert capture_output and text and env["CUDA_VISIBLE_DEVICES"] == ""
        output = io.StringIO()
        with monkeypatch.context() as patched, contextlib.redirect_stdout(output):
            patched.setattr(sys, "argv", list(command[4:]))
            for name in ("WORLD_SIZE", "RANK"):  # which it sets for itself
                patched.setenv(name, "")
            code = check_inputs.main()
        return subprocess.CompletedProcess(command, code, output.getvalue(), "")

    def call(*arguments: str) -> tuple[int, str]:
        with monkeypatch.context() as patched:
            patched.setattr("launch.input_process.subprocess", SimpleNamespace(run=check_here))
            code = run(arguments)
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def good(tmp_path: Path) -> tuple[str, ...]:
    write_counting_shard(tmp_path / "shard", start=0, num_tokens=500)
    data = f"data.train=[{{paths:[{tmp_path / 'shard'}]}}]"
    return (*MODEL, data, "data.validation=[]", f"output_dir={tmp_path / 'outputs'}")


def test_a_run_that_can_be_queued_and_no_torch(good: tuple[str, ...], tmp_path: Path) -> None:
    script = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('launch.preflight', run_name='__main__', alter_sys=True)\n"
        "finally:\n    print(sorted({'torch', 'megatron', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *good, "cluster.device=h100_sxm", "hardware=true"],  # one process: like itself
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for check in CHECKS:
        assert check in done.stdout
    assert "ok" in done.stdout and "error" not in done.stdout
    assert "of 80 GiB on the fullest device" in " ".join(done.stdout.replace("│", " ").split())
    assert not (tmp_path / "outputs").exists(), "a check leaves files behind"
    words = " ".join(done.stdout.replace("│", " ").split())
    assert "1 shard (checksums verified) is valid; no checkpoint to resume: the run starts at step 0" in words


def test_all_that_is_wrong_is_said_at_once_with_fixes(
    preflight: Preflight, good: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "shard.bin").write_bytes((tmp_path / "shard.bin").read_bytes()[:-8])
    code, printed = preflight(
        *good,
        "cluster=h100",
        "cluster.num_nodes=2",
        "model=llama_70b",
        "parallel.tensor_model_parallel_size=16",
        "parallel.sequence_parallel=true",
        "model.num_query_groups=16",
        "precision=bf16",
        "logging=wandb",
        "cluster.device_memory_gib=20",
        "training.train_iters=1000000",
        "checkpoint.keep_last=0",
        "checkpoint.save_interval=1",
    )
    assert code == 2
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    by_check = {line.split(": ")[1]: line for line in errors}
    assert {"layout", "inputs", "memory", "disk", "wandb"} <= set(by_check)
    assert (
        "parallel.tensor_model_parallel_size: splits a group across hosts of cluster.gpus_per_node=8"
        in by_check["layout"]
    )
    assert str(tmp_path / "shard") in by_check["inputs"]
    assert "GiB of memory" in by_check["memory"]
    assert "1000000 checkpoints" in by_check["disk"]
    assert "wandb login" in by_check["wandb"]


def test_errors_of_form_come_with_those_of_the_shards(
    preflight: Preflight, good: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "shard.bin").write_bytes((tmp_path / "shard.bin").read_bytes()[:-8])
    with pytest.raises(ConfigError) as caught:
        preflight(*good, "optimizer.lrr=1", "model.num_layers=3", "parallel=pp2")
    paths = [violation.path for violation in caught.value.violations]
    assert paths == ["optimizer.lrr", "model.num_layers", str(tmp_path / "shard.bin")]


def test_an_allowed_failure_becomes_a_warning(preflight: Preflight, good: tuple[str, ...]) -> None:
    wide = ("cluster.gpus_per_node=2", "cluster.num_nodes=2", "parallel.tensor_model_parallel_size=4")
    many = ("model.num_query_groups=4", "model.num_attention_heads=4", "model.hidden_size=64")
    code, printed = preflight(*good, *wide, *many)
    assert code == 2
    assert "error: layout:" in printed
    code, printed = preflight(*good, *wide, *many, "allow=layout")
    assert code == 0, printed
    assert "warning: layout:" in printed


def test_an_invalid_configuration_does_not_stop_the_other_checks(preflight: Preflight, good: tuple[str, ...]) -> None:
    code, printed = preflight(*good, "parallel.tensor_model_parallel_size=3", "logging=wandb")
    assert code == 2
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith("error: configuration: parallel.tensor_model_parallel_size: ")
    assert any(line.startswith("error: wandb:") for line in lines)
    assert len(lines) == len({line.split(": ", 2)[2] for line in lines}), "a problem is said twice"


def test_packages_of_the_nodes_are_a_warning(preflight: Preflight, good: tuple[str, ...]) -> None:
    fp8 = ("precision=bf16", "precision.fp8=hybrid", "model.transformer_impl=transformer_engine")
    code, printed = preflight(*good, *fp8)
    assert code == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("warning: libraries:")]
    assert (
        "which is not installed on this host" in line and "If the nodes have it, check them with on_nodes=true" in line
    )
