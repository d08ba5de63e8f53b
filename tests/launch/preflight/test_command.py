"""The real command, on good and on bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.preflight.request import CHECKS
from tests.data.shards import write_counting_shard

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = ("model=quickstart", "model.vocab_size=512", "model.seq_length=32")


def preflight(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.preflight", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture
def good(tmp_path: Path) -> tuple[str, ...]:
    write_counting_shard(tmp_path / "shard", start=0, num_tokens=500)
    data = f"data.train=[{{paths:[{tmp_path / 'shard'}]}}]"
    return (*MODEL, data, "data.validation=[]", f"output_dir={tmp_path / 'outputs'}")


def test_a_run_that_can_be_queued(good: tuple[str, ...], tmp_path: Path) -> None:
    done = preflight(*good, "cluster.device=h100_sxm", "sniff=true")  # one process: like itself
    assert done.returncode == 0, done.stdout + done.stderr
    for check in CHECKS:
        assert check in done.stdout
    assert "ok" in done.stdout and "error" not in done.stdout
    assert "GiB of 80 on the fullest device, predicted" in done.stdout.replace("\n", " ")
    assert not (tmp_path / "outputs").exists(), "a check leaves files behind"


def test_all_that_is_wrong_is_said_at_once_with_fixes(good: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "shard.bin").write_bytes((tmp_path / "shard.bin").read_bytes()[:-8])
    done = preflight(
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
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    by_check = {line.split(": ")[1]: line for line in errors}
    assert {"layout", "inputs", "memory", "disk", "wandb"} <= set(by_check)
    assert "parallel.tensor_model_parallel_size=16 puts ranks of one group on different hosts" in by_check["layout"]
    assert str(tmp_path / "shard") in by_check["inputs"]
    assert "GiB of memory" in by_check["memory"]
    assert "1000000 checkpoints" in by_check["disk"]
    assert "wandb login" in by_check["wandb"]
    assert "Traceback" not in done.stdout + done.stderr


def test_what_is_meant_becomes_a_warning(good: tuple[str, ...]) -> None:
    wide = ("cluster.gpus_per_node=2", "cluster.num_nodes=2", "parallel.tensor_model_parallel_size=4")
    many = ("model.num_query_groups=4", "model.num_attention_heads=4", "model.hidden_size=64")
    refused = preflight(*good, *wide, *many)
    assert refused.returncode == 2
    assert "error: layout:" in refused.stdout
    accepted = preflight(*good, *wide, *many, "accept=layout")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert "warning: layout:" in accepted.stdout


def test_a_configuration_that_breaks_rules_is_judged_all_the_same(good: tuple[str, ...]) -> None:
    done = preflight(*good, "parallel.tensor_model_parallel_size=3", "logging=wandb")
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith("error: configuration: parallel.tensor_model_parallel_size=3")
    assert any(line.startswith("error: wandb:") for line in lines)
    assert len(lines) == len({line.split(": ", 2)[2] for line in lines}), "a problem is said twice"


def test_it_never_imports_torch(good: tuple[str, ...]) -> None:
    script = (
        "import sys, launch.preflight.__main__ as m; code = m.run(sys.argv[1:]);"
        "print(code, sorted({'torch', 'megatron', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *good], cwd=REPOSITORY, capture_output=True, text=True, timeout=180
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
