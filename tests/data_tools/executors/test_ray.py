"""The executor ray on a real cluster, which takes long to start; test_executors.py does the same without one."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.data_tools.commands import LIMIT_SECONDS, wait_until
from tests.data_tools.conftest import Prepared
from tests.data_tools.executors.test_executors import check_missing_cluster, check_ray

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
pytestmark = pytest.mark.long


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one node on this machine."""
    # Its tokens lie in the home directory, which a test leaves alone.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Paths of sockets are short.
    directory = Path(tempfile.mkdtemp(prefix="ray"))
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--port=0", "--block", "--num-cpus=4"]
    options = ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={directory}"]
    log = directory / "start.log"
    with log.open("w") as stream:
        process = psutil.Popen([*command, *options], stdout=stream, stderr=stream)

    def find_address() -> str:
        assert process.poll() is None, log.read_text()
        return log.read_text().partition("--address='")[2].partition("'")[0]

    wait_until(find_address)
    yield find_address()
    family = process.children(recursive=True)
    process.terminate()
    process.wait(LIMIT_SECONDS)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, LIMIT_SECONDS)
    shutil.rmtree(directory, ignore_errors=True)


def test_ray_gives_the_same_bytes_and_goes_on_where_it_stopped(
    prepared: Prepared, tmp_path: Path, ray_address: str
) -> None:
    check_ray(prepared, tmp_path / "data", ray_address)


def test_a_ray_cluster_that_is_not_there_is_named(prepared: Prepared, tmp_path: Path) -> None:
    check_missing_cluster(prepared, tmp_path / "data")
