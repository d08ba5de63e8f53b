"""Count the cores that this process may use: fewer than the host has where it is pinned or a container limits it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")


def count_cores(*, proc: Path = PROC) -> int:
    """Count the cores that threads and worker processes can keep busy, at least 1.

    A quota of a container is rounded down: threads beyond it make the kernel stop all of them in each period.

    Args:
        proc: the kernel's directory of this process.
    """
    quota = read_quota(proc=proc)
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def read_quota(*, proc: Path = PROC) -> float | None:
    """Read the CPU limit that control groups set for this process, the strictest of its group and those above it.

    Returns:
        Cores; None where there is no limit, or the host has no control groups.
    Source: docs.kernel.org: admin-guide/cgroup-v2.html (cpu.max), and scheduler/sched-bwc.html for version 1.
    """
    try:
        groups = dict(_own_groups((proc / "cgroup").read_text()))
        mounts = list(_mounts((proc / "mountinfo").read_text()))
    except (OSError, ValueError):  # not Linux
        return None
    quotas = []
    for controllers, root, mount in mounts:
        group = groups.get("cpu" if controllers else "")
        if group is None or (controllers and "cpu" not in controllers):
            continue
        for directory in _upwards(group, root=root, mount=mount):
            quota = _read_v1(directory) if controllers else _read_v2(directory)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _own_groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield each controller with this process's group; the controller of version 2 has no name."""
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, group


def _mounts(text: str) -> Iterator[tuple[list[str], str, Path]]:
    """Yield mounted hierarchies: their controllers (none for version 2), the mounted group, and the mount point."""
    for line in text.splitlines():
        place, _, kind = line.partition(" - ")
        root, mount = place.split()[3:5]
        match kind.split():
            case ["cgroup2", *_]:
                yield [], root, Path(mount)
            case ["cgroup", _, options, *_]:
                yield options.split(","), root, Path(mount)


def _upwards(group: str, *, root: str, mount: Path) -> Iterator[Path]:
    """Yield the directories of a group and of all groups above it, as far as they are mounted here.

    In a container the mount may begin at the container's own group, or the group be named from the host's root.
    """
    inside = group.removeprefix(root.rstrip("/")) if (group + "/").startswith(root.rstrip("/") + "/") else group
    directory = mount / inside.lstrip("/")
    if ".." in inside.split("/") or not directory.is_dir():
        directory = mount
    yield directory
    while directory != mount:
        directory = directory.parent
        yield directory


def _read_v2(directory: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (directory / "cpu.max").read_text().split()
        if quota != "max":
            return int(quota) / int(period)
    return None


def _read_v1(directory: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            return quota / int((directory / "cpu.cfs_period_us").read_text())
    return None
