"""Progress of a long stage on the screen, and the times that the stages of a preparation took."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trireme.progress import PlainProgress, format_amount, should_draw_bar

TIMINGS_NAME = "timings.json"
TIMINGS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """The time of a stage, or of one process's part of it."""

    title: str
    seconds: float
    amount: int
    """Amount of work done in this time."""
    unit: str
    """Unit of amount, such as bytes or documents."""
    num_parts: int = 1
    """Processes that shared it, one after the other or at the same time; their seconds add up."""
    is_whole: bool = True
    """Whether amount is all of the work; not where a killed run had done a part of it."""

    @property
    def rate(self) -> float:
        """Return the amount per second of a part."""
        return self.amount / max(self.seconds, 1e-9)


def note_timing(path: Path, timing: StageTiming) -> None:
    """Append a timing to a file that other processes may append to at the same time; a line is written at once."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(timing)) + "\n")


def sum_timings(path: Path) -> list[StageTiming]:
    """Add up the timings in a file by title, in the order in which stages first ended; return none without the file."""
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
    """Read timings.json; return none if the file is missing, cut off or of another version."""
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


Mode = Literal["auto", "on", "off"]


class StageProgress:
    """Show the progress of a stage; leaving the block ends the bar or writes the closing line.

    Args:
        title: of the stage.
        total: None if unknown; then only the amount done is shown.
        unit: of the amount; "bytes" are shown in binary units.
        number: of the stage and of how many, such as (2, 5).
        done_before: amount that an earlier run has done.
        on_end: receives the timing, also when an error ends the stage.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None,
        unit: str,
        mode: Mode,
        number: tuple[int, int] | None = None,
        done_before: int = 0,
        on_end: Callable[[StageTiming], object] | None = None,
    ) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._done = self._done_before = done_before
        self._on_end = on_end
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._plain: PlainProgress | None = None
        shown = title if number is None else f"{number[0]}/{number[1]} {title}"
        if should_draw_bar(mode, stream=sys.stderr):
            columns: list[ProgressColumn] = [TextColumn("{task.description:<19}"), BarColumn(), TimeElapsedColumn()]
            if total is not None:
                columns += [TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn()]
            columns.append(TextColumn("{task.fields[rate]}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(shown, total=total, completed=done_before, rate="")
        elif mode == "auto":
            self._plain = PlainProgress(shown, total=total, unit=unit, write=_write_line, done_before=done_before)

    def update(self, done: int) -> None:
        """Show the amount done so far, that of earlier runs included."""
        self._done = done
        if self._bar is not None:
            rate = (done - self._done_before) / max(time.monotonic() - self._start, 1e-9)
            shown = format_amount(done, self._unit) if self._total is None else f"{format_amount(rate, self._unit)}/s"
            self._bar.update(self._task, completed=done, rate=shown)
        elif self._plain is not None:
            self._plain.update(done)

    def __enter__(self) -> "StageProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._plain is not None and error is None:
            self._plain.finish(self._done)
        if self._on_end is not None:
            amount = self._done - self._done_before
            seconds = time.monotonic() - self._start
            is_whole = error is None and not self._done_before
            self._on_end(
                StageTiming(title=self._title, seconds=seconds, amount=amount, unit=self._unit, is_whole=is_whole)
            )


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Number the stages of one job on the screen and note their times; they may run in different processes."""

    titles: tuple[str, ...]
    """Of all stages, in order."""
    mode: Mode
    """When to draw bars."""
    timings: Path | None = None
    """File to which times are appended; None notes none."""

    def begin(self, title: str, *, total: int | None, unit: str, done_before: int = 0) -> StageProgress:
        """Begin the progress of a stage; the arguments are those of `StageProgress`."""
        return StageProgress(
            title,
            total=total,
            unit=unit,
            mode=self.mode,
            number=(self.titles.index(title) + 1, len(self.titles)),
            done_before=done_before,
            on_end=None if self.timings is None else partial(note_timing, self.timings),
        )


def _write_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
