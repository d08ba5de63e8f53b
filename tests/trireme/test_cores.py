"""CPU limits of containers: control groups of both versions, nested, and with the container's root mounted."""

import os
from pathlib import Path

import pytest

from trireme import processes as local_torchrun
from trireme.cores import count_cores, read_quota

MANY = 1000


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MANY)))


def fake_proc(folder: Path, *, groups: list[str], mounts: list[str]) -> Path:
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("".join(line + "\n" for line in groups))
    (proc / "mountinfo").write_text("".join(line + "\n" for line in mounts))
    return proc


def version_2(mount: Path, *, root: str = "/") -> str:
    return f"31 24 0:26 {root} {mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"


def version_1(mount: Path, controllers: str, *, root: str = "/") -> str:
    return f"32 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,{controllers}"


def set_quota(directory: Path, microseconds: int, *, period: int = 100_000) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.cfs_quota_us").write_text(f"{microseconds}\n")
    (directory / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("written", "cores"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", MANY), ("800000 50000", 16)],
)
def test_version_2(tmp_path: Path, written: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(written + "\n")
    assert count_cores(proc=fake_proc(tmp_path, groups=["0::/"], mounts=[version_2(tmp_path)])) == cores


def test_the_strictest_of_the_group_and_those_above_counts(tmp_path: Path) -> None:
    own = tmp_path / "user.slice" / "job"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own.parent / "cpu.max").write_text("300000 100000\n")
    proc = fake_proc(tmp_path, groups=["0::/user.slice/job"], mounts=[version_2(tmp_path)])
    assert count_cores(proc=proc) == 3
    (own / "cpu.max").write_text("100000 100000\n")
    assert count_cores(proc=proc) == 1


@pytest.mark.parametrize("quota", [400_000, -1])
def test_version_1_beside_other_controllers(tmp_path: Path, quota: int) -> None:
    set_quota(tmp_path / "cpu" / "job", quota)
    groups = ["4:memory:/other", "2:cpu,cpuacct:/job", "1:name=systemd:/job", "0::/"]
    mounts = [version_1(tmp_path / "memory", "memory"), version_1(tmp_path / "cpu", "cpu,cpuacct")]
    proc = fake_proc(tmp_path, groups=groups, mounts=mounts)
    assert read_quota(proc=proc) == (4.0 if quota > 0 else None)
    assert count_cores(proc=proc) == (4 if quota > 0 else MANY)


def test_a_container_that_sees_its_own_group_alone_under_the_name_that_the_host_has_for_it(tmp_path: Path) -> None:
    set_quota(tmp_path, 200_000)
    proc = fake_proc(tmp_path, groups=["1:cpu:/docker/abc"], mounts=[version_1(tmp_path, "cpu", root="/docker/abc")])
    assert count_cores(proc=proc) == 2


def test_a_host_without_control_groups(tmp_path: Path) -> None:
    assert count_cores(proc=tmp_path / "nothing") == MANY
    assert count_cores(proc=fake_proc(tmp_path, groups=[], mounts=["unreadable"])) == MANY


def test_processes_share_the_cores_that_the_container_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_torchrun, "count_cores", lambda: 6)
    assert local_torchrun.set_omp_threads({}, num_processes=2) == {"OMP_NUM_THREADS": "3"}
    assert local_torchrun.set_omp_threads({}, num_processes=8) == {"OMP_NUM_THREADS": "1"}
    assert local_torchrun.set_omp_threads({"OMP_NUM_THREADS": "5"}, num_processes=2) == {"OMP_NUM_THREADS": "5"}


@pytest.mark.parametrize(
    ("endpoint", "is_local"),
    [
        *(
            ("localhost:0", True),
            ("127.0.0.1:29400", True),
            ("127.8.0.1", True),
            ("[::1]:3", True),
            ("localhost", True),
        ),
        *(("node7:29400", False), ("10.0.0.1:0", False), ("", False)),
    ],
)
def test_endpoints_that_no_other_host_can_reach(endpoint: str, is_local: bool) -> None:
    assert local_torchrun.is_loopback(endpoint) == is_local
