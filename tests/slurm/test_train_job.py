"""slurm/train.sbatch on a real cluster: warned, preempted or without a node, a run goes on as if nothing happened."""

import re
import sys
from pathlib import Path

import pytest

from tests.data.shards import write_shard
from tests.slurm.cluster import SlurmCluster, wait_until
from tests.train.commands import REPOSITORY, SMALL, counting_documents, losses_of
from trainer.metrics.jsonl import read_records

pytestmark = pytest.mark.slurm

NUM_STEPS = 120
# Of a job that takes some 15 seconds on two idle cores.
DEADLINE = 240.0


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("data") / "counting", counting_documents(), with_manifest=True)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def submit(cluster: SlurmCluster, run: Path, shard: Path, *overrides: str) -> str:
    return cluster.submit(
        "--nodes=2",
        "--gpus-per-node=1",
        f"--output={run}.out",
        "slurm/train.sbatch",
        *SMALL,
        f"training.train_iters={NUM_STEPS}",
        f"data.train=[{{paths:['{shard}']}}]",
        f"output_dir='{run.parent}'",
        f"run_name={run.name}",
        *overrides,
        cwd=REPOSITORY,
        PYTHON=sys.executable,
        PROCESSES_PER_NODE="1",
    )


def wait_for_steps(run: Path, count: int) -> None:
    metrics = run / "metrics.jsonl"
    wait_until(
        lambda: metrics.exists() and len(read_records(metrics)) >= count, what=f"{count} steps", seconds=DEADLINE
    )


@pytest.fixture(scope="module")
def straight(running_cluster: SlurmCluster, output: Path, shard: Path) -> Path:
    """A job of two nodes that nobody disturbs."""
    job = submit(running_cluster, output / "straight", shard)
    running_cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    return output / "straight"


def test_two_nodes_train_together(straight: Path) -> None:
    losses = losses_of(straight)
    assert list(losses) == list(range(1, NUM_STEPS + 1))
    assert losses[NUM_STEPS] < losses[1]
    assert "2 processes: tensor 1, pipeline 1, context 1, data 2" in straight.with_suffix(".out").read_text()


def test_warned_of_its_end_it_saves_and_requeues_itself_and_goes_on(
    cluster: SlurmCluster, straight: Path, shard: Path
) -> None:
    run = straight.with_name("warned")
    job = submit(cluster, run, shard)
    wait_for_steps(run, 3)
    # What --signal=B:USR1@300 does at its time.
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert_saved_and_requeued(cluster, job, run)
    assert losses_of(run) == losses_of(straight), "bit for bit"


def test_preempted_it_saves_and_makes_room_and_goes_on(cluster: SlurmCluster, straight: Path, shard: Path) -> None:
    run = straight.with_name("preempted")
    job = submit(cluster, run, shard)
    wait_for_steps(run, 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_for(urgent, "COMPLETED", seconds=DEADLINE)
    assert cluster.states(job) != ["COMPLETED"]
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert_saved_and_requeued(cluster, job, run)
    assert losses_of(run) == losses_of(straight), "bit for bit"


def test_cancelled_it_stays_away(cluster: SlurmCluster, straight: Path, shard: Path) -> None:
    run = straight.with_name("cancelled")
    job = submit(cluster, run, shard)
    wait_for_steps(run, 3)
    cluster.ask("scancel", job)
    cluster.wait_for(job, "CANCELLED")
    assert cluster.show(job)[0]["Restarts"] == "0"
    assert "requeueing" not in run.with_suffix(".out").read_text()
    assert losses_of(run).items() < losses_of(straight).items()


def assert_saved_and_requeued(cluster: SlurmCluster, job: str, run: Path) -> None:
    text = run.with_suffix(".out").read_text()
    assert text.count("time is nearly up: asking the run to save and leave") == 1
    assert len(re.findall(rf"requeueing {job} \(exit code \d+, restart 0\)", text)) == 1
    assert cluster.show(job)[0]["Restarts"] == "1"
    saved = [int(step) for step in re.findall(r"saved .*/step_(\d+):", text)]
    assert len(saved) == 2 and 3 <= saved[0] < saved[1] == NUM_STEPS
    assert f"/step_{saved[0]:08d}, step {saved[0]}, saved under" in text


def test_a_node_that_dies_is_replaced(cluster: SlurmCluster, straight: Path, shard: Path) -> None:
    run = straight.with_name("bereft")
    job = submit(cluster, run, shard, "checkpoint.save_interval=10")
    wait_for_steps(run, 13)
    (victim,) = {node.name for node in cluster.nodes[:2]} - {cluster.show(job)[0]["BatchHost"]}
    cluster.crash_node(victim)
    cluster.take_down_node(victim)
    try:
        cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    finally:
        cluster.bring_back_node(victim)
    assert cluster.show(job)[0]["Restarts"] == "1"
    assert victim not in cluster.ask("scontrol", "show", "hostnames", cluster.show(job)[0]["NodeList"]).split()
    losses = losses_of(run)
    assert losses == losses_of(straight), "bit for bit; steps behind the last checkpoint were taken again"
