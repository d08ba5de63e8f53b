"""Jobs of launch.slurm on a real cluster: warned, preempted or without a node, a run goes on as if nothing happened."""

import json
import re

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import DEADLINE, NUM_STEPS, Runs, wait_for_steps, warn
from tests.train.commands import losses_of

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def straight(running_cluster: SlurmCluster, runs: Runs) -> dict[int, float]:
    """The losses of a job of two nodes that nobody disturbs."""
    job = runs.submit(running_cluster, "straight")
    running_cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert "2 processes: tensor 1, pipeline 1, context 1, data 2" in runs.printed("straight")
    (record,) = running_cluster.show(job)
    assert (record["NumNodes"], record["TresPerNode"]) == ("2", "gres:gpu:1")
    return losses_of(runs.directory("straight"))


def assert_saved_and_requeued(cluster: SlurmCluster, job: str, printed: str) -> None:
    assert printed.count("asking the run to save and leave") == 1
    assert len(re.findall(rf"requeueing {job} \(exit code \d+, restart 0\)", printed)) == 1
    assert cluster.show(job)[0]["Restarts"] == "1"
    saved = [int(step) for step in re.findall(r"saved .*/step_(\d+):", printed)]
    assert len(saved) == 2 and 3 <= saved[0] < saved[1] == NUM_STEPS
    assert f"newest checkpoint: {saved[0]}" in printed


def test_two_nodes_train_together(straight: dict[int, float]) -> None:
    assert list(straight) == list(range(1, NUM_STEPS + 1))
    assert straight[NUM_STEPS] < straight[1]


def test_warned_of_its_end_it_saves_and_goes_on_elsewhere_with_the_code_that_was_submitted(
    cluster: SlurmCluster, runs: Runs, straight: dict[int, float]
) -> None:
    job = runs.submit(cluster, "warned")
    directory = runs.directory("warned")
    wait_for_steps(directory, 3)
    bad = {"host": "n2.cluster.example", "reason": "its GPU is slow"}
    (directory / "bad_nodes.jsonl").write_text(json.dumps(bad) + "\n")
    # That its second start prints this shows that the copy is what runs.
    (copy,) = directory.glob("slurm/*/code")
    with open(copy / "trainer" / "__init__.py", "a") as file:
        file.write("print('here is the copy')\n")
    warn(cluster, job)
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert_saved_and_requeued(cluster, job, runs.printed("warned"))
    assert "here is the copy" in runs.printed("warned")
    assert losses_of(directory) == straight, "bit for bit"
    (record,) = cluster.show(job)
    assert (record["ExcNodeList"], record["NodeList"]) == ("n2", "n[1,3]")


def test_preempted_it_saves_and_makes_room_and_goes_on(
    cluster: SlurmCluster, runs: Runs, straight: dict[int, float]
) -> None:
    job = runs.submit(cluster, "preempted")
    wait_for_steps(runs.directory("preempted"), 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_for(urgent, "COMPLETED", seconds=DEADLINE)
    assert cluster.states(job) != ["COMPLETED"]
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert_saved_and_requeued(cluster, job, runs.printed("preempted"))
    assert losses_of(runs.directory("preempted")) == straight, "bit for bit"


def test_cancelled_it_stays_away(cluster: SlurmCluster, runs: Runs, straight: dict[int, float]) -> None:
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
