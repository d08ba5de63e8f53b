"""One Slurm cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import SlurmCluster, SlurmUnavailableError, check_available


@pytest.fixture(scope="session", autouse=True)
def slurm_available() -> None:
    """Skips all tests of this folder where no cluster can be started."""
    try:
        check_available()
    except SlurmUnavailableError as reason:
        pytest.skip(f"no Slurm cluster: {reason}")


@pytest.fixture(scope="session")
def running_cluster(slurm_available: None) -> Iterator[SlurmCluster]:
    with SlurmCluster(num_nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, without jobs before and after a test."""
    yield running_cluster
    running_cluster.cancel_all()
