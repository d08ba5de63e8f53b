"""One Slurm cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.data.shards import write_shard
from tests.slurm.cluster import SlurmCluster, SlurmUnavailableError, check_available
from tests.slurm.jobs import Runs
from tests.train.commands import counting_documents


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


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A small training, and a directory for its runs whose name is hard on scripts."""
    shard = write_shard(tmp_path_factory.mktemp("data") / "counting", counting_documents(), with_manifest=True)
    return Runs(output=tmp_path_factory.mktemp("my %j runs"), shard=shard)
