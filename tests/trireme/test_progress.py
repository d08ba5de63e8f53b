"""Formatting of numbers, time spans and plain progress lines."""

import io

import pytest

from trireme.progress import (
    PlainProgress,
    format_amount,
    format_bytes,
    format_count,
    format_duration,
    format_number,
    should_draw_bar,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.25, "0.25"),
        (999, "999"),
        (1000, "1.00k"),
        (999_700, "1.00M"),
        (12_345, "12.3k"),
        (456_000_000, "456M"),
        (1.3e12, "1.30T"),
    ],
)
def test_format_count(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (900, "900 B"), (1536, "1.50 KiB"), (1023 * 1024, "1.00 MiB"), (2**40, "1.00 TiB")]
)
def test_format_bytes(value: float, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (187, "3:07"), (18131, "5:02:11")])
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_auto_draws_a_bar_on_a_terminal_only() -> None:
    assert should_draw_bar("auto", stream=Terminal())
    assert not should_draw_bar("auto", stream=io.StringIO())
    assert should_draw_bar("on", stream=io.StringIO())
    assert not should_draw_bar("off", stream=Terminal())


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (0, "step", None, "0 steps"),
        (1, "process", None, "1 process"),
        (2, "process", None, "2 processes"),
        (3, "micro batch", None, "3 micro batches"),
        (2, "entry", None, "2 entries"),
        (2, "day", None, "2 days"),
        (12_345, "index", "indices", "12345 indices"),
        (1, "index", "indices", "1 index"),
    ],
)
def test_format_number(count: int, noun: str, plural: str | None, text: str) -> None:
    assert format_number(count, noun, plural=plural) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1536, "bytes", "1.50 KiB"), (0.5, "pages", "0.50 pages"), (2400, "lines", "2.40k lines")],
)
def test_format_amount(value: float, unit: str, text: str) -> None:
    assert format_amount(value, unit) == text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_lines(*, total: int | None, unit: str, per_second: int, seconds: int, done_before: int = 0) -> list[str]:
    """Return the lines of a job of constant speed, updated each second."""
    clock, lines = Clock(), list[str]()
    progress = PlainProgress(
        "work", total=total, unit=unit, write=lines.append, done_before=done_before, interval_seconds=5.0, clock=clock
    )
    for second in range(1, seconds + 1):
        clock.now = float(second)
        progress.update(done_before + second * per_second)
    progress.finish(done_before + seconds * per_second)
    return lines


def test_plain_progress_writes_a_line_per_interval_and_a_closing_one() -> None:
    assert plain_lines(total=100, unit="pages", per_second=2, seconds=12) == [
        "work: 10/100 pages (10%), 2 pages/s, 5.0 s, 45.0 s left",
        "work: 20/100 pages (20%), 2 pages/s, 10.0 s, 40.0 s left",
        "work: 24/100 pages (24%), 2 pages/s, 12.0 s, done",
    ]


def test_plain_progress_writes_bytes_in_binary_units() -> None:
    assert plain_lines(total=2**30, unit="bytes", per_second=3 * 2**20, seconds=5) == [
        "work: 15.0 MiB/1.00 GiB (1%), 3.00 MiB/s, 5.0 s, 5:36 left",
        "work: 15.0 MiB/1.00 GiB (1%), 3.00 MiB/s, 5.0 s, done",
    ]


def test_plain_progress_omits_an_unknown_remaining_time() -> None:
    assert (
        plain_lines(total=None, unit="lines", per_second=1000, seconds=5)[0] == "work: 5000 lines, 1.00k lines/s, 5.0 s"
    )
    assert plain_lines(total=10, unit="lines", per_second=0, seconds=5)[0] == "work: 0/10 lines (0%), 0 lines/s, 5.0 s"
    # More than was expected, and nothing expected at all.
    assert "left" not in plain_lines(total=10, unit="lines", per_second=3, seconds=5)[0]
    assert plain_lines(total=0, unit="lines", per_second=0, seconds=5)[0] == "work: 0/0 lines, 0 lines/s, 5.0 s"


def test_work_done_before_does_not_count_for_the_speed() -> None:
    lines = plain_lines(total=1000, unit="pages", per_second=10, seconds=5, done_before=500)
    assert lines[0] == "work: 550/1000 pages (55%), 10 pages/s, 5.0 s, 45.0 s left"
