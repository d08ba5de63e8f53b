"""Jobs of launch.slurm on a real cluster: warned, preempted or without a node, a run goes on as if nothing happened."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import SlurmCluster, wait_until
from tests.slurm.jobs import DEADLINE, NUM_STEPS, Runs, wait_for_steps
from tests.train.commands import losses_of

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@pytest.fixture(scope="module")
def straight(running_cluster: SlurmCluster, runs: Runs) -> dict[int, float]:
    """The losses of a job of two nodes that nobody disturbs."""
    job = runs.submit(running_cluster, "straight")
    running_cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert "2 processes: tensor 1, pipeline 1, context 1, data 2" in runs.printed("straight")
    (record,) = running_cluster.show(job)
    assert (record["NumNodes"], record["TresPerNode"]) == ("2", "gres:gpu:1")
    return losses_of(runs.directory("straight"))


def count_warnings(printed: str) -> int:
    return printed.count("asking the run to save a checkpoint and exit")


def assert_saved_and_requeued(cluster: SlurmCluster, job: str, printed: str) -> None:
    restarts = int(cluster.show(job)[0]["Restarts"])
    assert restarts >= 1
    assert count_warnings(printed) == restarts
    requeued = re.findall(rf"requeueing {job} \(exit code \d+, restart (\d+)\)", printed)
    assert requeued == [str(number) for number in range(restarts)]
    saved = [int(step) for step in re.findall(r"Saved .*/step_(\d+):", printed)]
    assert len(saved) >= 2 and saved == sorted(set(saved)) and saved[-1] == NUM_STEPS
    assert f"latest checkpoint: {saved[0]}" in printed


def test_two_nodes_train_together(straight: dict[int, float]) -> None:
    assert list(straight) == list(range(1, NUM_STEPS + 1))
    assert straight[NUM_STEPS] < straight[1]


@contextmanager
def held_up(job: str) -> Iterator[None]:
    """Stops a job's training processes, as a file system may that does not answer: the end of its time comes sooner."""
    # Forked ranks have their launcher's environment to the eye, and names of their own.
    found = [process for process in psutil.process_iter(["name"]) if process.info["name"].startswith("rank ")]
    workers = [process for process in found if process.environ().get("SLURM_JOB_ID") == job]
    assert len(workers) == 2, workers
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def test_a_job_at_its_time_limit_saves_and_resumes_with_the_submitted_code(
    cluster: SlurmCluster, runs: Runs, straight: dict[int, float]
) -> None:
    # A minute is Slurm's least limit, which it looks at every 30 s: the warning comes 20 to 50 s after a start. On a
    # busy machine that may be before the third step, once or twice.
    limit = ("cluster.slurm.time_limit='1:00'", "cluster.slurm.warn_seconds=10")
    job = runs.submit(cluster, "timed", *limit, "cluster.slurm.max_restarts_without_progress=9")
    directory = runs.directory("timed")
    wait_for_steps(directory, 3)
    earlier = count_warnings(runs.printed("timed"))
    with held_up(job):
        bad = {"host": "n2.cluster.example", "reason": "its GPU is slow"}
        (directory / "bad_nodes.jsonl").write_text(json.dumps(bad) + "\n")
        # That its next start prints this shows that the copy is what runs.
        (copy,) = directory.glob("slurm/*/code")
        with open(copy / "trainer" / "__init__.py", "a") as file:
            file.write("print('here is the copy')\n")
        wait_until(lambda: count_warnings(runs.printed("timed")) > earlier, what="Slurm's warning", seconds=60)
    cluster.wait_for(job, "PENDING")
    assert cluster.show(job)[0]["TimeLimit"] == "00:01:00"
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=50")  # the rest need not fit into a minute
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    (record,) = cluster.show(job)
    assert_saved_and_requeued(cluster, job, runs.printed("timed"))
    assert "here is the copy" in runs.printed("timed")
    assert losses_of(directory) == straight, "bit for bit"
    assert (record["ExcNodeList"], record["NodeList"]) == ("n2", "n[1,3]")


def test_a_preempted_job_saves_and_resumes(cluster: SlurmCluster, runs: Runs, straight: dict[int, float]) -> None:
    job = runs.submit(cluster, "preempted")
    wait_for_steps(runs.directory("preempted"), 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_for(urgent, "COMPLETED", seconds=DEADLINE)
    assert cluster.states(job) != ["COMPLETED"]
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert_saved_and_requeued(cluster, job, runs.printed("preempted"))
    assert losses_of(runs.directory("preempted")) == straight, "bit for bit"


def test_training_that_goes_wrong_for_good_on_two_nodes_is_not_started_again(cluster: SlurmCluster, runs: Runs) -> None:
    diverging = ("optimizer.lr=1e25", "optimizer.clip_grad=0", "lr_schedule.warmup_steps=0")
    recovery = ("recovery.max_skipped_steps=2", "recovery.max_rollbacks=1")
    job = runs.submit(cluster, "diverged", *diverging, *recovery)
    cluster.wait_for(job, "FAILED", seconds=DEADLINE)
    assert (cluster.show(job)[0]["Restarts"], cluster.show(job)[0]["ExitCode"]) == ("0", "82:0")
    assert "stopped: training diverged" in runs.printed("diverged")


def test_a_shard_that_has_gone_while_the_job_waited_is_wrong_input(
    cluster: SlurmCluster, runs: Runs, tmp_path: Path
) -> None:
    shards = shutil.copytree(runs.shard.parent, tmp_path / "shards")
    data = f"data.train=[{{paths:['{shards / runs.shard.name}']}}]"
    job = runs.submit(cluster, "bare", data, "cluster.slurm.options={hold: null}")
    shutil.rmtree(shards)
    cluster.ask("scontrol", "release", job)
    cluster.wait_for(job, "FAILED", seconds=DEADLINE)
    assert (cluster.show(job)[0]["Restarts"], cluster.show(job)[0]["ExitCode"]) == ("0", "2:0")
    assert "stopped: the configuration or an input is invalid" in runs.printed("bare")


def test_a_cancelled_job_is_not_requeued(cluster: SlurmCluster, runs: Runs, straight: dict[int, float]) -> None:
    job = runs.submit(cluster, "cancelled")
    wait_for_steps(runs.directory("cancelled"), 3)
    cluster.ask("scancel", job)
    cluster.wait_for(job, "CANCELLED")
    assert cluster.show(job)[0]["Restarts"] == "0"
    assert "requeueing" not in runs.printed("cancelled")
    assert losses_of(runs.directory("cancelled")).items() < straight.items()


def test_a_node_that_dies_is_replaced(cluster: SlurmCluster, runs: Runs, straight: dict[int, float]) -> None:
    job = runs.submit(cluster, "bereft", "checkpoint.save_interval=10")
    wait_for_steps(runs.directory("bereft"), 13)
    (victim,) = {node.name for node in cluster.nodes[:2]} - {cluster.show(job)[0]["BatchHost"]}
    cluster.crash_node(victim)
    cluster.take_down_node(victim)
    try:
        cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    finally:
        cluster.bring_back_node(victim)
    assert cluster.show(job)[0]["Restarts"] == "1"
    assert victim not in cluster.ask("scontrol", "show", "hostnames", cluster.show(job)[0]["NodeList"]).split()
    losses = losses_of(runs.directory("bereft"))
    assert losses == straight, "bit for bit; steps behind the last checkpoint were taken again"
