"""Commands that run on GPUs by the same words: the certificate, and the benchmark of a step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.devices import count_gpus, environment, needs_gpus

pytestmark = [pytest.mark.gpu, needs_gpus(1)]

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_layouts_are_certified_on_gpus(tmp_path: Path) -> None:
    layouts = ["llama single megatron", "llama bf16 single megatron"]
    if count_gpus() > 1:
        layouts += ["llama tp2.sp", "gpt2 pp2", "llama cp2", "llama dp2 zero2", "moe ep2.dp2 megatron"]
    written = ",".join(f'"{layout}"' for layout in layouts)
    done = run(
        "trainer.certify",
        "certify=standard",
        f"layouts=[{written}]",
        "certify.num_perturbed_runs=4",
        "certify.num_steps=3",
        f"certify.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "certificate.json").read_text())
    assert all("CPU" not in estimate["device"] for estimate in record["estimates"])


def test_a_step_is_measured_with_its_memory() -> None:
    done = run("benchmarks.gpu_step", "--shapes", "tiny", "--rounds", "1", "--steps", "2")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    for side in ("ours", "peer"):
        assert line[f"{side}_figures"]["peak_memory_gib"] is not None
        assert line[f"{side}_figures"]["last_loss"] == pytest.approx(5.5, abs=0.3)
