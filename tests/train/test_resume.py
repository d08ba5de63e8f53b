"""The real command, interrupted and started again: as if nothing had happened.

Runs of 20 steps on a small model are shared by the tests of this file.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from tests.data.shards import write_shard
from tests.train.commands import (
    REPOSITORY,
    SMALL,
    command_of,
    counting_documents,
    environment,
    launch,
    losses_of,
    planted,
    tensors_of,
)
from trainer.checkpoint.trainer_state import ForkedFrom, read_state
from trainer.metrics.jsonl import read_records

DROPOUT = ("parallel=tp2_pp2", "model.hidden_dropout=0.1", "model.attention_dropout=0.1")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("data") / "counting", counting_documents(), with_manifest=True)


@pytest.fixture(scope="module")
def megatron_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents, written by Megatron-Core."""
    prefix = tmp_path_factory.mktemp("megatron") / "counting"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in counting_documents():
        builder.add_document(torch.from_numpy(document), [len(document)])
    builder.finalize(f"{prefix}.idx")
    return prefix


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def overrides(output: Path, run_name: str, shard: Path, *further: str) -> list[str]:
    return [*SMALL, f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{output}'", f"run_name={run_name}", *further]


def train(output: Path, run_name: str, shard: Path, *further: str) -> Path:
    result = launch(*overrides(output, run_name, shard, *further))
    assert result.returncode == 0, result.stderr
    return output / run_name


def stop_in_the_middle(
    output: Path, run_name: str, shard: Path, *further: str, act: Callable[[subprocess.Popen[str]], object]
) -> tuple[int, str]:
    """Start a run and `act` on it when it has taken three steps; its exit code and what it said on stderr."""
    process = subprocess.Popen(
        command_of(*overrides(output, run_name, shard, *further)),
        cwd=REPOSITORY,
        env=environment(**planted("slow:0:1")),  # so that a signal arrives before the last step, on a busy host too
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = output / run_name / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(read_records(metrics)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no step was taken"
        time.sleep(0.01)
    act(process)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture(scope="module")
def straight(output: Path, shard: Path) -> Path:
    """Two stages of two processes with dropout, 20 steps in one go."""
    return train(output, "straight", shard, *DROPOUT, "checkpoint.save_interval=10")


@pytest.fixture(scope="module")
def resumed(output: Path, shard: Path) -> Path:
    """The same, ended after step 10 and started again."""
    run = train(output, "resumed", shard, *DROPOUT, "training.stop_after_step=10")
    assert max(losses_of(run)) == 10
    return train(output, "resumed", shard, *DROPOUT)


@pytest.fixture(scope="module")
def copies(output: Path, megatron_shard: Path) -> Path:
    """Two copies of the model, 20 steps in one go, on the shard that Megatron-Core wrote."""
    return train(output, "copies", megatron_shard, "parallel=dp2")


@pytest.fixture(scope="module")
def stopped(output: Path, shard: Path) -> tuple[int, str, Path]:
    """Two copies of the model, stopped by SIGTERM on the way."""
    code, errors = stop_in_the_middle(
        output, "stopped", shard, "parallel=dp2", act=lambda process: process.send_signal(signal.SIGTERM)
    )
    return code, errors, output / "stopped"


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    tensors, others = tensors_of(first), tensors_of(second)
    assert tensors.keys() == others.keys()
    assert {key.split(".")[0] for key in tensors} >= {"model", "optimizer"}
    assert [key for key in tensors if not torch.equal(tensors[key], others[key])] == []


def test_a_resumed_run_equals_an_uninterrupted_one_with_dropout_on_four_processes(
    straight: Path, resumed: Path
) -> None:
    losses = losses_of(straight)
    assert list(losses) == list(range(1, 21))
    assert losses[20] < losses[1]
    assert losses_of(resumed) == losses, "bit for bit"
    for step in ("step_00000010", "step_00000020"):
        assert_equal_checkpoints(straight / "checkpoints" / step, resumed / "checkpoints" / step)


def test_a_run_leaves_its_configuration_and_a_log_of_every_rank(straight: Path) -> None:
    config = yaml.safe_load((straight / "config.yaml").read_text())
    assert config["run_name"] == "straight"
    assert config["parallel"]["pipeline_model_parallel_size"] == 2
    assert config["model"]["hidden_dropout"] == 0.1
    logs = sorted((straight / "logs").iterdir())
    assert [log.name for log in logs] == [f"rank_{rank:03d}.log" for rank in range(4)]
    assert all(log.stat().st_size > 0 for log in logs)
    assert sorted(path.name for path in straight.iterdir()) == [
        "checkpoints",
        "config.0.yaml",
        "config.yaml",
        "events.jsonl",
        "logs",
        "metrics.jsonl",
    ]


def test_sigterm_finishes_the_step_saves_and_asks_to_be_started_again(stopped: tuple[int, str, Path]) -> None:
    code, errors, run = stopped
    assert code == 75, errors
    assert "Traceback" not in errors
    assert "Received SIGTERM: will finish the current step, save a checkpoint and exit. Send it again" in errors
    step = max(losses_of(run))
    assert 3 <= step < 15
    assert last_checkpoint(run).name == f"step_{step:08d}"


def test_a_run_stopped_by_sigterm_resumes_under_any_layout(
    stopped: tuple[int, str, Path], copies: Path, output: Path, shard: Path
) -> None:
    """And Megatron-Core's shard gives the batches that ours with the same documents gives."""
    _, _, run = stopped
    moved = Path(shutil.copytree(run, output / "moved"))
    expected = losses_of(copies)
    assert list(expected) == list(range(1, 21))

    train(output, "stopped", shard, "parallel=dp2")
    assert losses_of(run) == expected, "bit for bit"
    assert_equal_checkpoints(last_checkpoint(run), last_checkpoint(copies))

    train(output, "moved", shard, "parallel=tp2_pp2", "training.stop_after_step=15")
    train(output, "moved", shard, "parallel=single")
    losses = losses_of(moved)
    assert list(losses) == list(range(1, 21))
    difference = max(abs(losses[step] / expected[step] - 1) for step in expected)
    print(f"resumed under other layouts: losses differ by {difference:.1e}")
    assert 0 < difference <= 1e-6


@pytest.fixture(scope="module")
def fork(output: Path, straight: Path, shard: Path) -> Path:
    """A run of its own that begins with the state of another one's step 10, under another layout."""
    return train(output, "fork", shard, *_fork_of(straight), "training.stop_after_step=12")


def _fork_of(run: Path) -> tuple[str, ...]:
    return ("parallel=single", f"resume='{run / 'checkpoints' / 'step_00000010'}'")


def test_a_fork_is_a_run_of_its_own_that_knows_where_it_comes_from(fork: Path, straight: Path) -> None:
    assert list(losses_of(fork)) == [11, 12], "its own steps only"
    state = read_state(last_checkpoint(fork))
    parent = straight / "checkpoints" / "step_00000010"
    assert (state.run_name, state.step) == ("fork", 12)
    assert state.forked_from == (ForkedFrom(run_name="straight", step=10, checkpoint=str(parent)),)
    start, saved = read_records(fork / "events.jsonl")[:2]
    assert (start["kind"], start["step"], start["checkpoint"]) == ("start", 10, str(parent))
    assert start["forked_from"] == [{"run_name": "straight", "step": 10, "checkpoint": str(parent)}]
    assert (saved["kind"], saved["step"]) == ("checkpoint_saved", 12)
    assert list(losses_of(straight)) == list(range(1, 21)), "the other run is as it was"


def test_rerunning_resumes_and_a_failed_last_save_is_a_failure(
    fork: Path, straight: Path, output: Path, shard: Path
) -> None:
    command = command_of(*overrides(output, "fork", shard, *_fork_of(straight), "training.stop_after_step=14"))
    # No file may grow beyond 128 kB: the weights do, and nothing else.
    limited = ["bash", "-c", 'ulimit -f 128 && exec "$@"', "limited", *command]
    result = subprocess.run(
        limited, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    own = fork / "checkpoints" / "step_00000012"
    assert f"Failed to save checkpoint at step 14 to {fork / 'checkpoints'}: " in result.stderr
    assert "File too large" in result.stderr
    assert "The run stops at step 14, which could not be saved: " in result.stderr
    assert f"resume=auto resumes from {own}" in result.stderr
    assert list(losses_of(fork)) == [11, 12, 13, 14], "training was not disturbed"
    assert list((fork / "checkpoints").iterdir()) == [own]
    kinds = [event["kind"] for event in read_records(fork / "events.jsonl")]
    assert kinds == ["start", "checkpoint_saved", "start", "checkpoint_failed"]
