"""Starts `tests.chaos.faulty_train` as `launch.local` starts `trainer.train`, and reads what it has noted."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import warm
from tests.chaos.plan import VARIABLE
from tests.train.commands import REPOSITORY, environment


def prepare(directory: Path, faults: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write down the faults of a run; the environment of its processes."""
    directory.mkdir(parents=True, exist_ok=True)
    plan = directory / "plan.json"
    plan.write_text(json.dumps({"directory": str(directory), "faults": list(faults)}))
    return environment(**{VARIABLE: str(plan)})


def command_of(overrides: Sequence[str], *, num_processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", str(num_processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [*torchrun, *rendezvous, "-m", "tests.chaos.faulty_train", *overrides]


def run_faulty(
    overrides: Sequence[str],
    *,
    num_processes: int,
    directory: Path,
    faults: Sequence[dict[str, Any]],
    timeout_seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run the command with faults in it to its end, warm.

    Args:
        directory: takes what happened and what was read, over all starts of a run.
    """
    return warm.run(
        command_of(overrides, num_processes=num_processes),
        cwd=REPOSITORY,
        env=prepare(directory, faults),
        timeout_seconds=timeout_seconds,
    )


def read_lineage(directory: Path) -> list[dict[str, Any]]:
    """What each rank read in each step that it took, over all starts, in the order of time."""
    lines = [line for path in directory.glob("lineage.*.jsonl") for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["time"])


def samples_of(directory: Path) -> dict[int, list[int]]:
    """What the data-parallel ranks read in each step, the last time that the run took it."""
    takes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in read_lineage(directory):
        takes[record["step"]].append(record)
    found = {}
    for step, records in takes.items():
        start = records[-1]["start"]
        # Ranks of one model-parallel group read the same; of each group, one counts.
        ranks = {record["dp_rank"]: record["samples"] for record in records if record["start"] == start}
        found[step] = [sample for samples in ranks.values() for sample in samples]
    return found


def happenings(directory: Path) -> list[dict[str, Any]]:
    """Every fault that happened, in the order of time."""
    lines = [line for path in directory.glob("happened.*.jsonl") for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["time"])
