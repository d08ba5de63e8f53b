"""Numbers, time spans and plain progress lines as a person reads them."""

import io

import pytest

from trainer.common.progress import PlainProgress, format_bytes, format_count, format_duration, should_draw_bar


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


def test_plain_progress_writes_a_line_per_interval_and_a_closing_one() -> None:
    now = 0.0
    lines: list[str] = []
    progress = PlainProgress(
        "crawl", total=100, unit="pages", write=lines.append, interval_seconds=5.0, clock=lambda: now
    )
    for second in range(1, 13):
        now = float(second)
        progress.update(second * 2)
    progress.finish(24)
    assert lines == [
        "crawl: 10/100 pages, 2 pages/s, 5.0 s",
        "crawl: 20/100 pages, 2 pages/s, 10.0 s",
        "crawl: 24/100 pages, 2 pages/s, 12.0 s, done",
    ]
