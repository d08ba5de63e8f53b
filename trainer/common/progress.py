"""What progress displays share: whether to draw a bar, how to write numbers, and plain lines where there is no bar."""

import time
from collections.abc import Callable
from typing import Literal, TextIO


def should_draw_bar(mode: Literal["auto", "on", "off"], *, stream: TextIO) -> bool:
    """Whether to draw a bar on `stream`: auto draws on a terminal only."""
    return mode == "on" or (mode == "auto" and stream.isatty())


def format_count(value: float) -> str:
    """Write a number with three significant digits and a unit: 999, 1.23k, 45.6M, 7.89T."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale * 0.9995:
            return f"{_three_digits(value / scale)}{unit}"
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else _three_digits(value)


def format_bytes(value: float) -> str:
    """Write a size in binary units: 512 B, 1.50 KiB, 12.3 GiB."""
    size, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{_three_digits(size)} {units[0]}"


def format_duration(seconds: float) -> str:
    """Write a time span: 4.2 s, 3:07, 5:02:11."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole_seconds:02d}" if hours else f"{minutes}:{whole_seconds:02d}"


class PlainProgress:
    """One line every few seconds for output that is no terminal (a log file, a batch job)."""

    def __init__(
        self,
        title: str,
        *,
        total: int | None,
        unit: str,
        write: Callable[[str], object],
        interval_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit, self._write = title, total, unit, write
        self._interval_seconds, self._clock = interval_seconds, clock
        self._start = self._last = clock()

    def update(self, done: int) -> None:
        """Write a line if the last one is old enough."""
        now = self._clock()
        if now - self._last >= self._interval_seconds:
            self._last = now
            self._write(self._line(done, now))

    def finish(self, done: int) -> None:
        """Write the closing line."""
        self._write(f"{self._line(done, self._clock())}, done")

    def _line(self, done: int, now: float) -> str:
        elapsed = max(now - self._start, 1e-9)
        of_total = f"/{self._total}" if self._total is not None else ""
        return (
            f"{self._title}: {done}{of_total} {self._unit}, {format_count(done / elapsed)} {self._unit}/s,"
            f" {format_duration(elapsed)}"
        )


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
