"""Signals reach a run under proctrack/cgroup, which most sites have; all other tests have linuxproc."""

import pytest

from tests.slurm.cluster import SlurmCluster, SlurmUnavailableError
from tests.slurm.jobs import DEADLINE, NUM_STEPS_ALONE, Runs, wait_for_steps, warn
from tests.train.commands import losses_of

pytestmark = [pytest.mark.slurm, pytest.mark.long]


def test_a_warned_job_saves_requeues_itself_and_resumes(runs: Runs) -> None:
    name = "tracked-by-cgroup"
    try:
        with SlurmCluster(num_nodes=1, proctrack="cgroup") as cluster:
            job = runs.submit(cluster, name, num_nodes=1)
            wait_for_steps(runs.directory(name), 3)
            warn(cluster, job)
            cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
            assert cluster.show(job)[0]["Restarts"] == "1"
    except SlurmUnavailableError as reason:
        pytest.skip(str(reason))
    assert list(losses_of(runs.directory(name))) == list(range(1, NUM_STEPS_ALONE + 1))
    printed = runs.printed(name)
    assert printed.count("asking the run to save a checkpoint and exit") == 1
    assert printed.count("/step_") - printed.count(f"/step_{NUM_STEPS_ALONE:08d}") >= 1, "it saved before it left"
