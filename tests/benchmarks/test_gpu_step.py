"""The whole path of benchmarks/gpu_step.py on a CPU: both sides train the same shape and are counted alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_step", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return warm.run(command, cwd=REPOSITORY, env=environment, timeout_seconds=500)


def test_both_sides_take_steps_of_the_same_size() -> None:
    done = run("--device", "cpu", "--shapes", "tiny", "--rounds", "2", "--steps", "2", "--peer-backend", "aot_eager")
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    ours, peer = line["ours_figures"], line["peer_figures"]
    assert line["device"] == "CPU" and line["shape"] == "tiny"
    assert len(line["ratios"]) == 2 and line["median_ratio"] > 0
    for figures in (ours, peer):
        assert figures["tokens_per_second"] > 0
        assert figures["mfu"] is None and figures["peak_memory_gib"] is None, "a CPU has neither"
        # Nothing is known of random tokens: log(256) = 5.55, less what five steps on the same ones teach.
        assert figures["last_loss"] == pytest.approx(5.5, abs=0.3)
    assert ours["tokens_per_second"] / peer["tokens_per_second"] == pytest.approx(
        ours["model_tflops"] / peer["model_tflops"], rel=0.3
    )
    assert line["parameters"] == 2 * 256 * 64 + 2 * (64 * 64 * 3 + 64 * 128 * 3 + 2 * 64) + 64


def test_a_side_that_fails_leaves_the_other_its_figures() -> None:
    done = run("--device", "cpu", "--shapes", "tiny", "--rounds", "1", "--steps", "1", "--peer-backend", "no_such")
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["ours_figures"]["tokens_per_second"] > 0 and "median_ratio" not in line
    assert line["peer_figures"]["error"].startswith("InvalidBackend: ")


def test_without_a_gpu_it_says_so() -> None:
    done = run("--shapes", "tiny")
    assert done.returncode == 1
    assert "no GPU here; --device cpu --shapes tiny" in done.stderr
