"""The executors ray and slurm: the same bytes as local; and scripts that say what they do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.config import SourceConfig
from data_tools.sources import InputFile
from data_tools.stages import Share, share_files
from tests.data_tools.conftest import Prepared
from tests.data_tools.inputs import hash_files, run_prepare


def make_file(index: int, size: int | None) -> InputFile:
    source = SourceConfig(name="a", kind="text", paths=[])
    return InputFile(index=index, source=source, path=str(index), bytes=size, version="")


def test_shares_hold_each_file_once_and_about_as_much_as_the_others() -> None:
    files = [make_file(index, size) for index, size in enumerate([5, None, 90, 10, 40, 30, 20, None, 7])]
    shares = [share_files(files, Share(number=number, count=3)) for number in range(3)]
    assert sorted(file.index for share in shares for file in share) == list(range(9))
    assert all([file.index for file in share] == sorted(file.index for file in share) for share in shares)
    loads = [sum(29 if file.bytes is None else file.bytes for file in share) for share in shares]
    assert max(loads) - min(loads) <= 29
    assert share_files(files[:1], Share(number=1, count=3)) == []


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one node on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'trireme[ray]'")
    ray = Path(sys.executable).with_name("ray")
    # Its tokens lie in the home directory, which a test leaves alone.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = 20000 + os.getpid() % 10000
    started = subprocess.run(
        [
            str(ray),
            "start",
            "--head",
            f"--port={port}",
            "--num-cpus=4",
            "--include-dashboard=false",
            "--disable-usage-stats",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert started.returncode == 0, started.stderr
    yield f"127.0.0.1:{port}"
    subprocess.run([str(ray), "stop", "--force"], capture_output=True, timeout=60, check=False)


def test_ray_gives_the_same_bytes_and_goes_on_where_it_stopped(
    prepared: Prepared, tmp_path: Path, ray_address: str
) -> None:
    output = tmp_path / "data"
    overrides = (
        *prepared.overrides,
        f"data_prep.output_dir={output}",
        "data_prep.executor.kind=ray",
        "data_prep.executor.num_shares=3",
        f"data_prep.executor.ray_address={ray_address}",
    )
    strict = run_prepare(*overrides, "data_prep.strict=true")
    assert strict.returncode == 2, strict.stderr
    assert f"{prepared.inputs / 'records.jsonl'}: record 3 " in strict.stderr
    journals = set(output.glob(".preparing/read-*/*.journal"))
    assert journals
    done = run_prepare(*overrides)
    assert done.returncode == 0, done.stderr
    assert hash_files(output) == hash_files(prepared.output)


def test_a_ray_cluster_that_is_not_there_is_named(prepared: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'trireme[ray]'")
    done = run_prepare(
        *prepared.overrides,
        f"data_prep.output_dir={tmp_path / 'data'}",
        "data_prep.executor.kind=ray",
        "data_prep.executor.ray_address=auto",
    )
    assert done.returncode == 2
    assert "data_prep.executor.ray_address=auto leads to no Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr


SLURM = (
    "data_prep.executor.kind=slurm",
    "data_prep.executor.num_shares=5",
    "data_prep.executor.slurm.max_array_size=2",
    "data_prep.executor.slurm.max_running=1",
    "data_prep.executor.slurm.partition=cpu",
    "data_prep.executor.slurm.options={constraint:milan,exclusive:null}",
    "data_prep.executor.slurm.setup=[module load python]",
)


def test_the_scripts_of_a_dry_run(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "data"
    done = run_prepare(*prepared.overrides, f"data_prep.output_dir={output}", *SLURM, "data_prep.executor.dry_run=true")
    assert done.returncode == 0, done.stderr
    scripts = done.stdout.split("#!/usr/bin/env bash")[1:]
    assert len(scripts) == 8, "three arrays of each shared stage, and two single jobs"
    assert [line for script in scripts for line in script.splitlines() if "--array" in line] == [
        f"#SBATCH --array={elements}%1" for elements in ("0-1", "0-1", "0-0") * 2
    ]
    for part in (
        "#SBATCH --partition=cpu",
        "#SBATCH --constraint=milan\n#SBATCH --exclusive\n",
        "module load python",
        "--requeue",
    ):
        assert all(part in script for script in scripts)
    assert '"$((4 + SLURM_ARRAY_TASK_ID))/5"' in scripts[2]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not (output / "train.bin").exists()
