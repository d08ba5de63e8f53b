"""The short form of the chaos suite; `make chaos` plays the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.commands import REPOSITORY, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_faults_of_real_runs_end_as_designed(tmp_path: Path) -> None:
    results = tmp_path / "chaos.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--json", str(results)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(results.read_text())
    assert record["failed"] == record["skipped"] == {}
    assert len(record["verdicts"]) == 6
    for verdict in record["verdicts"]:
        assert verdict["is_equal"] and verdict["difference"] == 0
        assert verdict["num_samples_lost"] == verdict["num_samples_duplicated"] == 0
        assert verdict["detected_after_seconds"] is not None and verdict["recovered_after_seconds"] is not None
