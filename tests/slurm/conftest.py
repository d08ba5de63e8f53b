"""One Slurm cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import SlurmCluster, SlurmUnavailableError


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(num_nodes=3)
    try:
        cluster.start()
    except SlurmUnavailableError as reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(running_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, without jobs before and after a test."""
    yield running_cluster
    running_cluster.cancel_all()
