"""The preflight's small job on the nodes of a real cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.preflight.finding import Verdict
from launch.preflight.slurm_job import check_slurm
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import Runs
from tests.train.commands import REPOSITORY
from trainer.config.load import load_config

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
    done = preflight(cluster, *runs.overrides("checked"), "allow=hardware")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "│ hardware" in line]
    slow = [line for line in done.stdout.splitlines() if line.startswith("warning: hardware:")]
    assert all(" at " in line and "the median of all" in line for line in slow), slow
    # Measured between hosts only.
    assert slow or ("2 processes, no outliers" in row and "neighbour_gb_per_second: " in row)
    assert not Path(runs.directory("checked")).exists()
    assert not list(runs.output.glob(".preflight-*"))


def test_a_rejection_by_slurm_is_reported(cluster: SlurmCluster, runs: Runs) -> None:
    done = preflight(cluster, *runs.overrides("checked", "cluster.slurm.partition=absent"))
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: hardware:")]
    assert "invalid partition" in line.lower()


@pytest.mark.parametrize(
    ("overrides", "verdict", "what"),
    [
        ((), Verdict.OK, "processors on nodes n[1-2] in partition main"),
        (
            ("cluster.slurm.partition=absent",),
            Verdict.ERROR,
            "invalid partition specified: absent allocation failure: Invalid partition name specified. Change"
            " cluster.slurm.partition",
        ),
        (
            ("cluster.gpus_per_node=3", "training.global_batch_size=12"),
            Verdict.ERROR,
            "Requested node configuration is not available. Change cluster.num_nodes, cluster.gpus_per_node",
        ),
        (("cluster.slurm.constraint=h100",), Verdict.ERROR, ". Change cluster.slurm.constraint"),
        (
            ("cluster.slurm.time_limit=2-0",),
            Verdict.ERROR,
            "cluster.slurm.time_limit: exceeds the partition's MaxTime, so the job would never start (got 2-0). Use"
            " 01:00:00 or less",
        ),
        (
            ("cluster.gpus_per_node=2", "cluster.slurm.cpus_per_task=1"),
            Verdict.WARNING,
            "cluster.slurm.cpus_per_task: fewer CPUs than the 2 processes of a node, which share cores (got 1). Use 2",
        ),
    ],
)
def test_slurm_is_asked_whether_it_would_take_the_job(
    cluster: SlurmCluster,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    verdict: Verdict,
    what: str,
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
    finding = check_slurm(load_config(runs.overrides("asked", *overrides)))
    assert finding.verdict is verdict, finding
    assert what in " ".join([finding.text, *map(str, finding.violations)])
    assert [job for job in cluster.squeue() if job["job_state"] == "PENDING"] == []
    assert not runs.directory("asked").exists()
