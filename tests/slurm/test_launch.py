"""What else launch.slurm does with a real cluster: sweeps, chains, stopping, looking, and giving up in time."""

import re
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import DEADLINE, NUM_STEPS_ALONE, Runs, launch, wait_for_steps, warn
from tests.train.commands import losses_of

pytestmark = [pytest.mark.slurm, pytest.mark.long]


def test_a_sweep_is_an_array_of_runs_with_names_of_their_own(cluster: SlurmCluster, runs: Runs) -> None:
    job = runs.submit(cluster, "sweep", "-m", "optimizer.lr=1e-3,3e-4,1e-4", "training.train_iters=5", num_nodes=1)
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert len(cluster.show(job)) == 3
    final = {name: losses_of(runs.directory(f"sweep_lr_{name}"))[5] for name in ("0.001", "0.0003", "0.0001")}
    assert final["0.001"] < final["0.0003"] < final["0.0001"], "small steps learn little in so few"
    done = launch(cluster, *runs.overrides("sweep", "-m", "optimizer.lr=1e-3,3e-4,1e-4", "action=status"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("job ")] == ["COMPLETED"] * 3
    assert done.stdout.count("step       5 of 5, loss ") == 3


def test_one_run_of_a_sweep_starts_again_alone(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    # An interpreter that fails the last run, whose number is that of the array, too, while the others go on.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *seed_3*) exit 1 ;; esac\nsleep 10\n')
    python.chmod(0o755)
    further = (f"cluster.slurm.python='{python}'", "cluster.slurm.max_restarts_without_progress=2")
    job = runs.submit(cluster, "uneven", "-m", "training.seed=1,2,3", *further, num_nodes=1)
    cluster.wait_for(job, "COMPLETED", "FAILED")
    found = {record["ArrayTaskId"]: (record["JobState"], record["Restarts"]) for record in cluster.show(job)}
    assert found == {"0": ("COMPLETED", "0"), "1": ("COMPLETED", "0"), "2": ("FAILED", "2")}


def test_a_chain_goes_on_job_by_job_and_ends_with_the_run(cluster: SlurmCluster, runs: Runs) -> None:
    # resume= is for the first of them: the second goes on, and does not begin again.
    first = runs.submit(cluster, "chained", "chain=3", "resume=restart", num_nodes=1)
    second, third = str(int(first) + 1), str(int(first) + 2)
    wait_for_steps(runs.directory("chained"), 3)
    assert cluster.states(second, third) == ["PENDING", "PENDING"]
    warn(cluster, first)
    cluster.wait_for(second, "COMPLETED", seconds=DEADLINE)
    assert list(losses_of(runs.directory("chained"))) == list(range(1, NUM_STEPS_ALONE + 1))
    cluster.wait_for(third, "CANCELLED")
    assert {cluster.show(job)[0]["Restarts"] for job in (first, second)} == {"0"}
    printed = runs.printed("chained")
    assert "leaving the rest to the next job of the chain" in printed
    assert len(re.findall(rf"step +1/{NUM_STEPS_ALONE} ", printed)) == 1


def test_a_chain_of_a_sweep_ends_run_by_run(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    # The first run is done at once; the second asks to be started again, and is done then.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *seed_1*) exit 0 ;; esac\nmkdir {tmp_path}/begun && exit 75\nexit 0\n')
    python.chmod(0o755)
    sweep = ("-m", "training.seed=1,2", "chain=3", f"cluster.slurm.python='{python}'")
    first = int(runs.submit(cluster, "chained-sweep", *sweep, num_nodes=1))
    for job in range(first, first + 3):
        cluster.wait_for(str(job), "COMPLETED", "CANCELLED")
    found = [
        {record["ArrayTaskId"]: record["JobState"] for record in cluster.show(str(job))}
        for job in range(first, first + 3)
    ]
    assert found[0] == {"0": "COMPLETED", "1": "COMPLETED"}
    assert found[1] == {"0": "CANCELLED", "1": "COMPLETED"}
    assert set(found[2].values()) == {"CANCELLED"}


def test_a_chain_whose_job_fails_ends_with_it(cluster: SlurmCluster, runs: Runs) -> None:
    first = runs.submit(cluster, "broken", "chain=2", "cluster.slurm.setup=['exit 3']", num_nodes=1)
    cluster.wait_for(first, "FAILED")
    cluster.wait_for(str(int(first) + 1), "CANCELLED")


def test_a_run_is_looked_at_and_stopped(cluster: SlurmCluster, runs: Runs) -> None:
    these = ("run_name=watched", f"output_dir='{runs.output}'")
    job = runs.submit(cluster, "watched", num_nodes=1)
    again = launch(cluster, *runs.overrides("watched", num_nodes=1))
    assert again.returncode == 2
    assert f"run_name=watched is the run of job {job}, which is not over" in again.stderr
    wait_for_steps(runs.directory("watched"), 3)
    stopped = launch(cluster, *these, "action=stop")
    assert stopped.stdout.startswith(f"{job}: asked to save and leave")
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert cluster.show(job)[0]["Restarts"] == "0"
    steps = len(losses_of(runs.directory("watched")))
    assert steps < NUM_STEPS_ALONE
    status = launch(cluster, *these, "action=status").stdout
    assert f"job        {job} COMPLETED" in status
    assert f"step       {steps} of {NUM_STEPS_ALONE}, loss " in status
    assert f"step_{steps:08d}" in status
    assert "stopped on request (exit code" in launch(cluster, *these, "action=logs").stdout
    idle = launch(cluster, *these, "action=stop")
    assert idle.returncode == 2
    assert f"run_name=watched has no job that waits or runs ({job} is COMPLETED)" in idle.stderr


def test_a_job_that_gets_nowhere_stops(cluster: SlurmCluster, runs: Runs) -> None:
    # An interpreter that has gone: each start fails at once.
    job = runs.submit(
        cluster, "looping", "cluster.slurm.python=/bin/false", "cluster.slurm.max_restarts_without_progress=2"
    )
    cluster.wait_for(job, "FAILED")
    assert cluster.show(job)[0]["Restarts"] == "2"
    printed = runs.printed("looping")
    assert printed.count("requeueing") == 2
    assert "stopped: 2 starts brought no checkpoint newer than step none; see what was said above" in printed


@pytest.mark.parametrize(("code", "why"), [(2, "the configuration or an input cannot"), (82, "training went wrong")])
def test_what_no_start_can_mend_is_no_reason_to_start_again(
    cluster: SlurmCluster, runs: Runs, tmp_path: Path, code: int, why: str
) -> None:
    ends = tmp_path / "ends"
    ends.write_text(f"#!/bin/sh\nexit {code}\n")
    ends.chmod(0o755)
    job = runs.submit(cluster, f"ends-{code}", f"cluster.slurm.python='{ends}'", num_nodes=1)
    cluster.wait_for(job, "FAILED")
    assert cluster.show(job)[0]["Restarts"] == "0"
    assert f"stopped: {why}" in runs.printed(f"ends-{code}")


def test_what_slurm_refuses_is_shown_and_leaves_nothing_behind(cluster: SlurmCluster, runs: Runs) -> None:
    refused = launch(cluster, *runs.overrides("refused", "cluster.slurm.partition=none"))
    assert refused.returncode == 1
    assert "Slurm refused:" in refused.stderr
    assert "invalid partition specified: none" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(runs.directory("refused").glob("slurm/*")) == []


def test_nodes_that_are_known_to_be_bad_are_never_asked_for(cluster: SlurmCluster, runs: Runs) -> None:
    directory = runs.directory("avoiding")
    directory.mkdir()
    (directory / "bad_nodes.jsonl").write_text('{"host": "n1", "reason": "preflight"}\n')
    job = runs.submit(cluster, "avoiding", "cluster.slurm.python=/bin/true", "cluster.slurm.exclude=n2", num_nodes=1)
    cluster.wait_for(job, "COMPLETED")
    assert cluster.show(job)[0]["NodeList"] == "n3"


def test_gpus_are_asked_for_as_the_cluster_wants_it(cluster: SlurmCluster, runs: Runs) -> None:
    for option, value in {"gpus-per-node": "gres:gpu:2", "gres": "gres:gpu:2", "none": None}.items():
        further = ("cluster.gpus_per_node=2", f"cluster.slurm.gpu_option={option}", "cluster.slurm.python=/bin/true")
        job = runs.submit(cluster, f"gpu-{option}", *further, num_nodes=1)
        cluster.wait_for(job, "COMPLETED")
        assert cluster.show(job)[0].get("TresPerNode") == value, option
