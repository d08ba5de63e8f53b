"""Starts a run again and again until it is done, as a batch system would, with a limit on starts without progress."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.faulty import command_of, prepare, read_lineage
from tests.train.commands import REPOSITORY
from trainer.checkpoint.directory import list_checkpoints

START_SECONDS = 240.0
"""Longest time of one start; far more than any needs on two idle cores."""
MAX_STARTS_WITHOUT_PROGRESS = 3


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a run's command."""

    began: float
    ended: float
    code: int
    errors: str
    """What it said on stderr."""


class CrashLoop(Exception):
    """The run was started again and again, and got nowhere."""


def supervise(
    run_directory: Path,
    *,
    commands: Sequence[tuple[Sequence[str], int]],
    faults: Sequence[dict[str, Any]],
    notes: Path,
    after_start: Callable[[int], None],
    environment: dict[str, str],
) -> list[Start]:
    """Run to the end.

    Args:
        commands: overrides and number of processes of each start; the last are those of all further ones.
        notes: directory in which the processes note what happens.
        after_start: repairs or damages something when a start has ended, given its number from 0.
    Raises:
        CrashLoop: several starts in a row have got no further.
    """
    starts: list[Start] = []
    num_idle, furthest = 0, _progress(run_directory, notes)
    while not starts or starts[-1].code != 0:
        overrides, num_processes = commands[min(len(starts), len(commands) - 1)]
        starts.append(
            _start(command_of(overrides, num_processes=num_processes), {**prepare(notes, faults), **environment})
        )
        after_start(len(starts) - 1)
        before, furthest = furthest, _progress(run_directory, notes)
        num_idle = num_idle + 1 if furthest == before else 0
        if starts[-1].code != 0 and num_idle >= MAX_STARTS_WITHOUT_PROGRESS:
            raise CrashLoop(f"{num_idle} starts without progress; the last said:\n{starts[-1].errors[-4000:]}")
    return starts


def _start(command: list[str], environment: dict[str, str]) -> Start:
    began = time.time()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        _, errors = process.communicate(timeout=60)
        raise CrashLoop(f"a start has not ended within {START_SECONDS:.0f} s:\n{errors[-4000:]}") from None
    return Start(began=began, ended=time.time(), code=process.returncode, errors=errors)


def _progress(run_directory: Path, notes: Path) -> tuple[list[str], int]:
    """The checkpoints, and the furthest step that was taken."""
    steps = (record["step"] for record in read_lineage(notes))
    return [path.name for path in list_checkpoints(run_directory)], max(steps, default=0)
