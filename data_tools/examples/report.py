"""Report a preparation of examples: outcomes, lengths, packing, targets, classes, and the checks of the rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trireme.examples.document import REASONS
from trireme.examples.rows import CHECKS, RowFault
from trireme.progress import format_count, format_number

PERCENTILES = (5, 25, 50, 75, 95, 99)
MAX_SHOWN = 3


@dataclass(kw_only=True)
class SplitReport:
    """Describe one shard of a preparation."""

    prefix: str
    num_examples: int = 0
    """Documents with labels; pairs of them for dpo."""
    num_truncated: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    """Of the examples, without padding."""
    packing_efficiency: float = 0.0
    """Share of the rows' tokens that is no padding."""
    packing_gain: float = 0.0
    """Rows that the examples take one a row, per row that they take."""
    num_targets: int = 0
    target_share: float = 0.0
    """Share of the examples' tokens that has a label."""
    length_percentiles: dict[str, float] = field(default_factory=dict)
    """Tokens of a document."""
    longest: int = 0
    mean_answer_tokens: dict[str, float] = field(default_factory=dict)
    """dpo: targets of a chosen and of a rejected answer in the mean."""
    label_counts: dict[str, int] = field(default_factory=dict)
    """classify and tag: examples or words of each class; qa: windows with and without an answer."""
    num_compared_answers: int = 0
    """sft and dpo: documents whose targets were decoded and compared with the answers."""
    faults: dict[str, int] = field(default_factory=dict)
    """Named check -> faults found in the rows."""
    first_faults: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Report:
    """Describe a preparation."""

    task: str
    seq_length: int
    num_read: int = 0
    num_duplicates: int = 0
    """Examples that equal an earlier one; they are kept, and stay on one side of the split."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Reason -> number."""
    first_rejected: list[dict[str, Any]] = field(default_factory=list)
    """The first of each reason, with file, line and detail."""
    padding: str = ""
    """Which token fills rows up, and why."""
    notes: list[str] = field(default_factory=list)
    splits: dict[str, SplitReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of PREFIX.report.json."""
        return {"version": 1, **asdict(self)}


def describe_lengths(lengths: np.ndarray) -> dict[str, float]:
    """Return the percentiles of lengths."""
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(lengths, PERCENTILES), strict=True)}


def count_faults(faults: Sequence[RowFault]) -> dict[str, int]:
    """Return the number of faults by check, zeros included."""
    found = Counter(fault.check for fault in faults)
    return {check: found[check] for check in CHECKS}


def format_report(report: Report) -> Iterator[str]:
    """Format a report as a short text, line by line."""
    num_rejected = sum(report.rejected.values())
    repeated = f", {report.num_duplicates} equal to an earlier one" if report.num_duplicates else ""
    yield f"{format_number(report.num_read, 'example')} read, {num_rejected} rejected{repeated}"
    for reason, number in sorted(report.rejected.items(), key=lambda item: -item[1]):
        yield f"  {number:>8}  {reason}: {REASONS[reason]}"  # type: ignore[index]
        for entry in [entry for entry in report.first_rejected if entry["reason"] == reason][:MAX_SHOWN]:
            detail = f": {entry['detail']}" if entry["detail"] else ""
            yield f"            {entry['file']}, line {entry['line']}{detail}"
    for name, split in report.splits.items():
        yield f"{name}: {split.prefix}"
        yield from (f"  {line}" for line in _format_split(split, seq_length=report.seq_length))
    yield f"padding: {report.padding}"
    yield from report.notes


def _format_split(split: SplitReport, *, seq_length: int) -> Iterator[str]:
    truncated = f", {split.num_truncated} truncated" if split.num_truncated else ""
    yield f"{format_number(split.num_examples, 'example')}{truncated} in {format_number(split.num_rows, 'row')}"
    yield (
        f"{split.packing_efficiency:.1%} of {format_count(split.num_rows * seq_length)} tokens are no padding;"
        f" packing takes {split.packing_gain:.2f} times fewer rows than one example a row"
    )
    yield f"{split.num_targets} targets, {split.target_share:.1%} of the examples' tokens"
    lengths = ", ".join(f"{name[1:]}% up to {value:.0f}" for name, value in split.length_percentiles.items())
    yield f"tokens of {'a document' if split.mean_answer_tokens else 'an example'}: {lengths}, longest {split.longest}"
    if split.mean_answer_tokens:
        means = " and ".join(f"{value:.1f} if {kind}" for kind, value in split.mean_answer_tokens.items())
        yield f"targets of an answer on average: {means}"
    if split.label_counts:
        yield f"labels: {_format_counts(split.label_counts)}"
    failed = {name: number for name, number in split.faults.items() if number}
    compared = f", {split.num_compared_answers} answers compared" if split.num_compared_answers else ""
    yield f"checks of all rows{compared}: {_format_counts(failed) if failed else 'all passed'}"
    yield from (f"  {fault}" for fault in split.first_faults)


def _format_counts(counts: Mapping[str, int]) -> str:
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name} {number}" for name, number in shown[:20])
    return f"{text} and {len(shown) - 20} more" if len(shown) > 20 else text
