"""timings.json: how long each stage of a preparation took. It lies beside the output and is no part of it: equal inputs
give equal shards, but never equal times."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

TIMINGS_NAME = "timings.json"
TIMINGS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """One stage of the run that finished a preparation."""

    title: str
    seconds: float
    amount: int
    """What was done in this time."""
    unit: str
    """What amount counts, such as bytes or documents."""
    is_whole: bool = True
    """Whether that is all of the stage; not where an earlier run had begun it."""

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / max(self.seconds, 1e-9)


def write_timings(output: Path, timings: Iterable[StageTiming]) -> None:
    """Write timings.json into the directory of a preparation."""
    stages = [asdict(timing) for timing in timings]
    content = {"version": TIMINGS_VERSION, "stages": stages}
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
