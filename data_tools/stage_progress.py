"""One long stage on the screen: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Literal

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

from trainer.common.progress import PlainProgress, format_bytes, format_count, should_draw_bar

Mode = Literal["auto", "on", "off"]


class StageProgress:
    """Shows how far a stage is; leaving the block ends the bar or writes the closing line.

    Args:
        title: what is being done.
        total: None where nobody knows; then only what is done is shown.
        unit: what is counted; "bytes" are written in binary units.
    """

    def __init__(self, title: str, *, total: int | None, unit: str, mode: Mode) -> None:
        self._unit, self._total, self._mode = unit, total, mode
        self._start = time.monotonic()
        self._done = 0
        self._bar: Progress | None = None
        self._plain: PlainProgress | None = None
        if should_draw_bar(mode, stream=sys.stderr):
            columns: list[ProgressColumn] = [TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn()]
            if total is not None:
                columns += [TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn()]
            columns.append(TextColumn("{task.fields[rate]}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total, rate="")
        elif mode == "auto":
            # A plain line has whole numbers only; bytes are told in KiB there.
            scale = 1024 if unit == "bytes" else 1
            shown_unit = "KiB" if unit == "bytes" else unit
            shown_total = None if total is None else total // scale
            self._scale = scale
            self._plain = PlainProgress(title, total=shown_total, unit=shown_unit, write=_write_line)

    def update(self, done: int) -> None:
        """Show that so much is done."""
        self._done = done
        if self._bar is not None:
            rate = done / max(time.monotonic() - self._start, 1e-9)
            if self._total is None:
                shown = format_bytes(done) if self._unit == "bytes" else f"{format_count(done)} {self._unit}"
            else:
                shown = f"{format_bytes(rate)}/s" if self._unit == "bytes" else f"{format_count(rate)} {self._unit}/s"
            self._bar.update(self._task, completed=done, rate=shown)
        elif self._plain is not None:
            self._plain.update(done // self._scale)

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
            self._plain.finish(self._done // self._scale)


def _write_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
