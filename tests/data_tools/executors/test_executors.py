"""The executors ray and slurm without a cluster: the same bytes as local; and scripts that say what they do."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools.config.schema import SourceConfig
from data_tools.executors import ray as ray_executor
from data_tools.inputs.files import InputFile
from data_tools.stages.preparation import Share
from data_tools.stages.run import share_files
from tests.data_tools.commands import run_command
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import hash_files, run_prepare


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


class LocalRay(types.ModuleType):
    """What `data_tools.executors.ray` uses of Ray; its tasks are done here, one after the other."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=RuntimeError)
        self.addresses: list[str] = []

    def init(self, *, address: str, **options: Any) -> None:
        if address == "auto":
            raise ConnectionError("Could not find any running Ray instance.")
        self.addresses.append(address)

    def shutdown(self) -> None:
        self.addresses.pop()

    def remote(self, **options: Any) -> Callable[[Callable[[str], Any]], Any]:
        return lambda run: types.SimpleNamespace(remote=lambda share: run(share))

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        return reference


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> LocalRay:
    """Ray without processes: neither those of a cluster, nor those in which shares run."""

    def run_share(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        assert command[:2] == [sys.executable, "-m"]
        return run_command(*command[2:])

    ray = LocalRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_executor, "subprocess", types.SimpleNamespace(run=run_share))
    return ray


def check_ray(prepared: Prepared, output: Path, address: str) -> None:
    """A bad record stops all shares, and the next run goes on to the same bytes as without Ray."""
    overrides = (
        *prepared.overrides,
        f"data_prep.output_dir={output}",
        "data_prep.executor.kind=ray",
        "data_prep.executor.num_shares=3",
        f"data_prep.executor.ray_address={address}",
    )
    strict = run_prepare(*overrides, "data_prep.strict=true")
    assert strict.returncode == 2, strict.stderr
    assert f"{prepared.inputs / 'records.jsonl'}: record 3 " in strict.stderr
    journals = set(output.glob(".preparing/read-*/*.journal"))
    assert journals
    done = run_prepare(*overrides)
    assert done.returncode == 0, done.stderr
    assert hash_files(output) == hash_files(prepared.output)


def test_shares_give_the_same_bytes_and_go_on_where_they_stopped(
    prepared: Prepared, tmp_path: Path, local_ray: LocalRay
) -> None:
    check_ray(prepared, tmp_path / "data", "here:1")
    assert local_ray.addresses == [], "it is left each time"


def check_missing_cluster(prepared: Prepared, output: Path) -> None:
    done = run_prepare(
        *prepared.overrides,
        f"data_prep.output_dir={output}",
        "data_prep.executor.kind=ray",
        "data_prep.executor.ray_address=auto",
    )
    assert done.returncode == 2
    assert "data_prep.executor.ray_address: cannot connect to a Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_not_there_is_named(prepared: Prepared, tmp_path: Path, local_ray: LocalRay) -> None:
    check_missing_cluster(prepared, tmp_path / "data")


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


def test_what_no_script_can_hold_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    done = run_prepare(
        *prepared.overrides,
        f"data_prep.output_dir='{tmp_path}/a\nb'",
        "data_prep.executor.kind=slurm",
        "data_prep.executor.dry_run=true",
        "data_prep.executor.slurm.partition='cpu\n#SBATCH --exclusive'",
        "data_prep.executor.slurm.options={comment: 'a\n#SBATCH --exclusive', array: 0-3, mem: 3G}",
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for problem in (
        r"data_prep.executor.slurm.partition: must be a single, non-empty line (got 'cpu\n#SBATCH --exclusive')",
        r"data_prep.executor.slurm.options.comment: must be a single line (got 'a\n#SBATCH --exclusive')",
        "data_prep.executor.slurm.options.array: this option is set by the batch script itself (got 0-3)",
        "data_prep.executor.slurm.options.mem: this option is controlled by a setting of its own (got 3G). Set"
        " data_prep.executor.slurm.memory",
        "data_prep.output_dir: must not contain a backslash or a line break",
    ):
        assert problem in done.stderr, done.stderr
