"""How long the stages of a preparation took: noted where it is worked on, and summed up beside its output.

Stages may run in several processes, on several machines, and more than once where a run was killed. timings.json is no
part of the output: equal inputs give equal shards, but never equal times.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TIMINGS_NAME = "timings.json"
REPORT_NAME = "report.html"
"""Of the page that shows them, among everything else; it is no part of the output either."""
TIMINGS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """A stage, or what one process did of it."""

    title: str
    seconds: float
    amount: int
    """What was done in this time."""
    unit: str
    """What amount counts, such as bytes or documents."""
    num_parts: int = 1
    """Processes that it was shared out among, one after the other or at a time; their seconds add up."""
    is_whole: bool = True
    """Whether amount is all that the parts had to do; not where a killed run had begun them."""

    @property
    def rate(self) -> float:
        """Amount per second of a part."""
        return self.amount / max(self.seconds, 1e-9)


def note_timing(path: Path, timing: StageTiming) -> None:
    """Append what a process did to a file that others may append to at the same time; a line is written at once."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(timing)) + "\n")


def sum_timings(path: Path) -> list[StageTiming]:
    """Add up what `note_timing` wrote, by title, in the order in which stages ended first; nothing where it did not."""
    sums: dict[str, StageTiming] = {}
    for noted in _read_notes(path):
        found = sums.get(noted.title)
        sums[noted.title] = noted if found is None else _add(found, noted)
    return list(sums.values())


def write_timings(output: Path, timings: list[StageTiming]) -> None:
    """Write timings.json into the directory of a preparation."""
    content = {"version": TIMINGS_VERSION, "stages": [asdict(timing) for timing in timings]}
    (output / TIMINGS_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_timings(output: Path) -> list[StageTiming]:
    """What `write_timings` wrote; nothing where it did not, or where the file is cut off or of another version."""
    try:
        content = json.loads((output / TIMINGS_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    if not isinstance(content, dict) or content.get("version") != TIMINGS_VERSION:
        return []
    return [StageTiming(**stage) for stage in content["stages"]]


def _read_notes(path: Path) -> Iterator[StageTiming]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        yield StageTiming(**values)


def _add(one: StageTiming, other: StageTiming) -> StageTiming:
    return StageTiming(
        title=one.title,
        seconds=one.seconds + other.seconds,
        amount=one.amount + other.amount,
        unit=one.unit,
        num_parts=one.num_parts + other.num_parts,
        is_whole=one.is_whole and other.is_whole,
    )
