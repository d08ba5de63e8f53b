"""What jobs of launch.slurm get from a real cluster, and what they do where a port is held."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from launch.slurm.render import FIRST_PORT, NUM_PORTS
from tests.slurm.cluster import CPUS_PER_NODE, GPUS_PER_NODE, SlurmCluster
from tests.slurm.jobs import DEADLINE, Runs
from tests.train.commands import losses_of

pytestmark = [pytest.mark.slurm, pytest.mark.long]

SHORT = ("training.train_iters=5",)


@contextmanager
def listening(host: str, port: int) -> Iterator[int]:
    """Another service at a port, which never says anything; 0 takes a free one."""
    with socket.create_server((host, port)) as service:
        yield service.getsockname()[1]


def test_a_task_has_its_devices_share_of_the_cpus(cluster: SlurmCluster, runs: Runs) -> None:
    for name, further, cpus in (
        ("share", (), CPUS_PER_NODE // GPUS_PER_NODE),
        ("each-gpu", ("cluster.slurm.cpus_per_gpu=1",), 1),
        ("whole", ("cluster.slurm.exclusive=true",), CPUS_PER_NODE),
    ):
        say = ("cluster.slurm.python=/bin/echo", "cluster.slurm.srun_options={label: null}")
        job = runs.submit(cluster, name, *say, *further, num_nodes=1)
        cluster.wait_for(job, "COMPLETED")
        assert cluster.show(job)[0]["NumCPUs"] == str(cpus), name
        assert "0: -m trainer.torchrun --nnodes 1 " in runs.printed(name), "srun was given --label"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.11"])
def test_a_port_in_use_is_skipped(cluster: SlurmCluster, runs: Runs, host: str) -> None:
    # The number of the job decides on the port, and it is known once it is there: nodes share this host's network.
    held = cluster.submit("--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1000")
    cluster.wait_for(held, "RUNNING")
    name = f"passing-{host}"
    job = runs.submit(cluster, name, *SHORT)
    with listening(host, FIRST_PORT + int(job) % NUM_PORTS):
        cluster.ask("scancel", held)
        cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert list(losses_of(runs.directory(name))) == [1, 2, 3, 4, 5]
    assert cluster.show(job)[0]["Restarts"] == "0"


def test_a_configured_port_in_use_is_reported(cluster: SlurmCluster, runs: Runs) -> None:
    with listening("127.0.0.1", 0) as port:
        fixed = (f"cluster.slurm.rendezvous_port={port}", "cluster.slurm.max_restarts_without_progress=1")
        job = runs.submit(cluster, "held", *SHORT, *fixed)
        cluster.wait_for(job, "FAILED", seconds=DEADLINE)
    printed = runs.printed("held")
    assert f"port {port} of n1 is in use by another process ('ss -ltnp' shows which). Set" in printed
    assert "stopped: 1 start without a new checkpoint (latest: none)" in printed
    job = runs.submit(cluster, "free", *SHORT, fixed[0])
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
