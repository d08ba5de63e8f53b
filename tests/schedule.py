"""How the suite is divided: among processes by file, the heavy folders first; and its `long` tests into parts."""

import zlib
from collections import Counter
from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling

HEAVY_FIRST = ("train", "certify", "engine", "checkpoint", "chaos", "launch", "data_tools", "model")
"""Folders of tests whose files take longest; begun late they would keep one process busy after all others are done."""

SECONDS = {
    "tests/slurm": 480.0,
    "tests/data_tools/test_prepare_kills.py": 190.0,
    "tests/chaos/test_chaos.py": 130.0,
    "tests/launch/test_quickstart.py": 100.0,
    "tests/checkpoint/test_matrix.py": 60.0,
    "tests/data_tools/executors/test_ray.py": 35.0,
    "tests/checkpoint/test_layouts.py": 25.0,
}
"""What the long tests of a scope took on two cores, roughly: parts of about equal length come of it."""
SECONDS_OF_OTHERS = 6.0
"""A long test of any other scope."""


def scope_of(nodeid: str) -> str:
    """What one process runs together: a file, whose fixtures its tests share; Slurm's cluster serves all its files."""
    path = nodeid.split("::", 1)[0]
    return "tests/slurm" if path.startswith("tests/slurm/") else path


class ScopeScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """pytest-xdist's scheduling by scope, with ours."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def sort_heavy_first(items: list[pytest.Item]) -> None:
    """Put heavy folders first; the order inside a file stays."""
    ranks = {folder: rank for rank, folder in enumerate(HEAVY_FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.split("/")[1], len(ranks)))


def read_part(text: str) -> tuple[int, int]:
    """`K/N`: part K of N, from 1.

    Raises:
        pytest.UsageError: it is none.
    """
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise pytest.UsageError(f"--part {text}: write K/N, with K from 1 to N")
    return int(number), int(count)


def scopes_of_part(nodeids: Iterable[str], *, number: int, count: int) -> set[str]:
    """The scopes of one part: the longest go first, each to the part that has least so far."""
    num_tests = Counter(map(scope_of, nodeids))
    seconds = {scope: SECONDS.get(scope, tests * SECONDS_OF_OTHERS) for scope, tests in num_tests.items()}
    loads = [0.0] * count
    chosen: set[str] = set()
    for scope in sorted(seconds, key=lambda scope: (-seconds[scope], zlib.crc32(scope.encode()))):
        part = loads.index(min(loads))
        loads[part] += seconds[scope]
        if part == number - 1:
            chosen.add(scope)
    return chosen
