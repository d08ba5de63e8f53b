"""The cluster that the other tests of this folder run on: nodes and GPUs are told apart, and nothing outlives it."""

import os
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import JOBS_PER_CLUSTER, SlurmCluster, job_numbers

pytestmark = [pytest.mark.slurm, pytest.mark.long]


def processes_of(directory: Path) -> list[psutil.Process]:
    """Processes that name the directory in their command line or work for the cluster in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(str(directory) in word for word in words):
            found.append(process)
    return found


def test_nodes_find_each_other_and_gpus_are_shared_out(cluster: SlurmCluster, tmp_path: Path) -> None:
    output = tmp_path / "job.out"
    show = "srun bash -c 'echo $(hostname) $(getent hosts n2 | cut -d\" \" -f1) $CUDA_VISIBLE_DEVICES'"
    job = cluster.submit("--nodes=2", "--gpus-per-node=2", f"--output={output}", "--wrap", show)
    cluster.wait_for(job, "COMPLETED")
    assert sorted(output.read_text().splitlines()) == ["n1 127.0.0.12 0,1", "n2 127.0.0.12 0,1"]
    # A node has two GPUs: the third job gets one of another node.
    jobs = [cluster.submit("--gpus-per-node=1", "--output=/dev/null", "--wrap=sleep 60") for _ in range(3)]
    for job in jobs:
        cluster.wait_for(job, "RUNNING")
    assert sorted(cluster.show(job)[0]["NodeList"] for job in jobs) == ["n1", "n1", "n2"]


def test_the_elements_of_an_array_are_seen_one_by_one(cluster: SlurmCluster) -> None:
    job = cluster.submit("--array=0-2%2", "--output=/dev/null", "--wrap=sleep 2; exit $((SLURM_ARRAY_TASK_ID == 1))")
    cluster.wait_for(job, "COMPLETED", "FAILED")
    states = {
        element["array_task_id"]: element["job_state"]
        for element in cluster.squeue()
        if element["array_job_id"] == int(job)
    }
    assert states == {0: "COMPLETED", 1: "FAILED", 2: "COMPLETED"}


def test_clusters_of_one_host_number_their_jobs_apart() -> None:
    """Their ports would meet otherwise (`launch.slurm.render.rendezvous_port`)."""
    with job_numbers() as first, job_numbers() as second:
        assert abs(first - second) >= JOBS_PER_CLUSTER
    with job_numbers() as again:
        assert again <= first, "given back"


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    before = Path("/etc/hosts").read_bytes()
    with SlurmCluster(num_nodes=2) as cluster:
        job = cluster.submit("--nodes=2", f"--output={tmp_path / 'job.out'}", "--wrap", "srun sleep 600")
        cluster.wait_for(job, "RUNNING")
        cluster.crash_node("n2")
        directory = cluster.directory
        assert len(processes_of(directory)) >= 5, "munged, the controller, a node with a job"
    assert processes_of(directory) == []
    assert not directory.exists()
    assert Path("/etc/hosts").read_bytes() == before
