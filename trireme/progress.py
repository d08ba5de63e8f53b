"""Format numbers for progress displays, decide whether to draw a bar, and print plain lines where there is none."""

import time
from collections.abc import Callable
from typing import Literal, TextIO


def should_draw_bar(mode: Literal["auto", "on", "off"], *, stream: TextIO) -> bool:
    """Return whether to draw a bar on `stream`: auto draws on a terminal only."""
    return mode == "on" or (mode == "auto" and stream.isatty())


def format_count(value: float) -> str:
    """Write a number with three significant digits and a unit: 999, 1.23k, 45.6M, 7.89T."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale * 0.9995:
            return f"{_three_digits(value / scale)}{unit}"
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else _three_digits(value)


def format_number(count: int, noun: str, *, plural: str | None = None) -> str:
    """Write a count with its noun: 1 process, 2 processes.

    Args:
        noun: singular form.
        plural: plural form, where it is irregular.
    """
    return f"{count} {noun if count == 1 else plural or _pluralize(noun)}"


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


def format_amount(value: float, unit: str) -> str:
    """Write an amount with its unit: 1.50 MiB where the unit is "bytes", else 1.23k pages."""
    return format_bytes(value) if unit == "bytes" else f"{format_count(value)} {unit}"


class PlainProgress:
    """Print a line every few seconds where the output is not a terminal (a log file, a batch job).

    A line holds the amount done, the rate, the time so far, and the time left at that rate.

    Args:
        total: None where it is unknown; then a line has neither percentage nor time left.
        unit: what is counted; "bytes" are written in binary units.
        done_before: amount done before this object was created, which does not count toward the rate.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None,
        unit: str,
        write: Callable[[str], object],
        done_before: int = 0,
        interval_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit, self._write = title, total, unit, write
        self._done_before = done_before
        self._interval_seconds, self._clock = interval_seconds, clock
        self._start = self._last = clock()

    def update(self, done: int) -> None:
        """Print a line if the interval has passed since the last one."""
        now = self._clock()
        if now - self._last >= self._interval_seconds:
            self._last = now
            rate = self._rate(done, now)
            is_left = self._total is not None and rate > 0 and done < self._total
            left = f", {format_duration(((self._total or 0) - done) / rate)} left" if is_left else ""
            self._write(self._line(done, now) + left)

    def finish(self, done: int) -> None:
        """Print the last line."""
        self._write(f"{self._line(done, self._clock())}, done")

    def _line(self, done: int, now: float) -> str:
        return (
            f"{self._title}: {self._amount(done)}, {format_amount(self._rate(done, now), self._unit)}/s,"
            f" {format_duration(now - self._start)}"
        )

    def _amount(self, done: int) -> str:
        """Format the amount done: bytes rounded, everything else exactly."""
        is_bytes = self._unit == "bytes"
        shown = format_bytes(done) if is_bytes else str(done)
        if self._total is not None:
            shown += f"/{format_bytes(self._total) if is_bytes else self._total}"
        unit = "" if is_bytes else f" {self._unit}"
        share = f" ({min(done / self._total, 1):.0%})" if self._total else ""
        return f"{shown}{unit}{share}"

    def _rate(self, done: int, now: float) -> float:
        return (done - self._done_before) / max(now - self._start, 1e-9)


def _pluralize(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
