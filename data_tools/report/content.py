"""Compute the content of a report from a preparation's files; the template only renders it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.output.stats import find_warnings
from data_tools.output.tables import DROPPED, FAILED
from data_tools.report.counts import TableCounts
from data_tools.report.figures import HistogramFigure, Segment, build_histogram, stack
from data_tools.report.tables import (
    KEPT,
    Copies,
    Fertility,
    Group,
    Reason,
    Sample,
    build_copies,
    build_fertility,
    build_files,
    build_languages,
    build_reasons,
    build_sources,
)
from data_tools.work.progress import StageTiming
from trireme.progress import format_amount, format_duration


@dataclass(frozen=True, kw_only=True)
class Files:
    """The loaded files of a preparation."""

    record: dict[str, Any]
    """preparation.json"""
    stats: dict[str, Any]
    ledger: dict[str, Any]
    tables: TableCounts
    samples: list[Sample]
    timings: list[StageTiming]


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """Time and rate of a stage."""

    title: str
    seconds: float
    time: str
    amounts: list[str]
    rates: list[str]
    segments: list[Segment]
    num_parts: int
    is_whole: bool
    """See `StageTiming`."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A warning."""

    text: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a report."""

    name: str
    record: dict[str, Any]
    stats: dict[str, Any]
    totals: dict[str, Any]
    num_pages: int
    """Number of records, without those of web archives that have no page, such as requests and metadata."""
    num_files: int
    warnings: list[Notice]
    outcomes: list[Segment]
    reasons: list[Reason]
    languages: list[Group]
    """Empty where languages were not identified."""
    tells_lost_languages: bool
    histograms: list[HistogramFigure]
    samples: list[Sample]
    sources: list[Group]
    files: list[Group]
    """Files with most dropped and failed records come first."""
    file_root: str
    """Common beginning of all file names, removed from them."""
    copies: list[Copies]
    fertility: list[Fertility]
    stages: list[StageRow]
    settings: list[tuple[str, str]]


def build_content(output: Path, files: Files) -> Content:
    """Build the content of a preparation's report."""
    stats, ledger, tables = files.stats, files.ledger, files.tables
    totals = ledger["totals"]
    paths = [file["path"] for file in ledger["files"]]
    root = _common_root(paths)
    kept = {split: stats[split]["num_documents"] for split in KEPT}
    lost = {DROPPED: sum(totals["dropped"].values()), FAILED: sum(totals["failed"].values())}
    return Content(
        name=output.resolve().name,
        record=files.record,
        stats=stats,
        totals=totals,
        num_pages=totals["read"] - _count_without_page(totals),
        num_files=len(paths),
        warnings=_build_warnings(find_warnings(stats=stats, ledger=ledger)),
        outcomes=stack(kept | lost, room=totals["read"]),
        reasons=build_reasons(ledger, root=root),
        languages=build_languages(tables),
        tells_lost_languages=tables.tells_lost_languages,
        histograms=_build_histograms(stats, tables),
        samples=files.samples,
        sources=build_sources(ledger, tables),
        files=build_files(ledger, root=root),
        file_root=root,
        copies=[
            copies
            for title, counts in (("Exact duplicates", tables.duplicates), ("Near duplicates", tables.near_duplicates))
            if (copies := build_copies(title, counts, root=root))
        ],
        fertility=build_fertility(stats),
        stages=_build_stages(files.timings, num_records=totals["read"]),
        settings=list(_flatten(files.record["description"]["settings"])),
    )


def _count_without_page(totals: dict[str, Any]) -> int:
    return sum(count for reason, count in totals["dropped"].items() if reason.startswith("record_type_"))


def _build_warnings(lines: list[str]) -> list[Notice]:
    warnings: list[Notice] = []
    for line in lines:
        if line.startswith(" ") and warnings:
            warnings[-1].details.append(line.strip())
        else:
            warnings.append(Notice(text=line))
    return warnings


def _build_histograms(stats: dict[str, Any], tables: TableCounts) -> list[HistogramFigure]:
    characters = {split: stats[split]["lengths"]["characters"] for split in KEPT if "lengths" in stats[split]}
    figures = [
        build_histogram(characters, unit="characters"),
        build_histogram(tables.token_lengths, unit="tokens"),
    ]
    return [figure for figure in figures if figure is not None]


def _build_stages(timings: list[StageTiming], *, num_records: int) -> list[StageRow]:
    longest = max((round(1000 * timing.seconds) for timing in timings), default=0)
    rows = []
    for timing in timings:
        amounts, rates = [], []
        if timing.title == "read" and timing.is_whole:
            amounts.append(f"{num_records:,} records")
            rates.append(f"{format_amount(num_records / max(timing.seconds, 1e-9), 'records')}/s")
        is_bytes = timing.unit == "bytes"
        amounts.append(format_amount(timing.amount, "bytes") if is_bytes else f"{timing.amount:,} {timing.unit}")
        rates.append(f"{format_amount(timing.rate, timing.unit)}/s")
        rows.append(
            StageRow(
                title=timing.title,
                seconds=timing.seconds,
                time=format_duration(timing.seconds),
                amounts=amounts,
                rates=rates,
                segments=stack({"time": round(1000 * timing.seconds)}, room=longest),
                num_parts=timing.num_parts,
                is_whole=timing.is_whole,
            )
        )
    return rows


def _common_root(paths: list[str]) -> str:
    """Return the common directory of all files, with its slash; empty if there is none."""
    common = os.path.commonprefix(paths)  # noqa: RUF071 - cut at a slash below; paths may be URLs
    return common[: common.rfind("/") + 1]


def _flatten(values: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield settings as dotted names and values."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        name = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            yield from _flatten(value, name)
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield name, "none" if value is None else str(value)
