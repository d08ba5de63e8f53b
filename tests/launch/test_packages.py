"""Packages that a run needs are looked for where it trains, not where it is planned or submitted."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launch import kubernetes, local
from launch.plan.__main__ import run as plan
from launch.slurm.__main__ import run as slurm
from trireme.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
FP8 = (
    *("model=llama_1b", "model.vocab_size=32000", "data.train=[{paths:[/data/wiki]}]", "cluster=h100"),
    *("model.transformer_impl=transformer_engine", "precision=bf16", "precision.fp8=hybrid"),
    "training.global_batch_size=64",
)
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], tuple[str, ...]]] = {
    "slurm": (slurm, ("dry_run=true", "cluster.slurm.python=/opt/te/bin/python")),
    "kubernetes": (kubernetes.run, ("cluster.kubernetes.image=a/b:1", "cluster.kubernetes.claims={/workspace: runs}")),
    "plan": (plan, ()),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is installed here"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_planning_does_not_require_the_packages_of_the_nodes(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    command, own = COMMANDS[name]
    assert command([*FP8, *own]) == 0
    assert capsys.readouterr().out


def test_training_reports_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(
        ConfigError, match="requires the package transformer-engine, which is not installed on this host"
    ):
        local.run(FP8)
    done = subprocess.run(
        [sys.executable, "-m", "trainer.train", *FP8], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "model.transformer_impl: requires the package transformer-engine" in done.stderr
