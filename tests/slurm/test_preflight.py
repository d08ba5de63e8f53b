"""The preflight's small job on the nodes of a real cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import Runs
from tests.train.commands import REPOSITORY

pytestmark = [pytest.mark.slurm, pytest.mark.long]


def preflight(cluster: SlurmCluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "launch.preflight", "checksums=false", "on_nodes=true", *arguments],
        cwd=REPOSITORY,
        env={**cluster.environment(), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_nodes_are_measured(cluster: SlurmCluster, runs: Runs) -> None:
    # Two hosts that share two cores may differ by anything.
    done = preflight(cluster, *runs.overrides("checked"), "accept=sniff")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "│ sniff" in line]
    slow = [line for line in done.stdout.splitlines() if line.startswith("warning: sniff:")]
    assert all(" at " in line and "the median is" in line for line in slow), slow
    # Measured between hosts only.
    assert slow or ("2 processes alike" in row and "neighbour_gb_per_second: " in row)
    assert not Path(runs.directory("checked")).exists()
    assert not list(runs.output.glob(".preflight-*"))


def test_what_slurm_refuses_is_said(cluster: SlurmCluster, runs: Runs) -> None:
    done = preflight(cluster, *runs.overrides("checked", "cluster.slurm.partition=absent"))
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: sniff:")]
    assert "invalid partition" in line.lower()
