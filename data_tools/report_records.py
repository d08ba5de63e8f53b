"""Records that a report names, so that a person can look at them: why they were not kept, and what they repeat."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_tools.record_table import DROPPED, FAILED
from data_tools.report_counts import CopyCounts
from data_tools.report_figures import Segment, stack

MAX_EXAMPLES = 5
"""Records named for each reason."""


@dataclass(frozen=True, kw_only=True)
class ExampleRecord:
    """A record that was not kept."""

    record: int
    file: str
    name: str
    link: str | None
    """Its address, where the name is one that a browser may follow."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why records were not kept."""

    name: str
    kind: str
    """dropped or failed"""
    count: int
    segments: list[Segment]
    examples: list[ExampleRecord]


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Clusters of records with equal, or almost equal, texts."""

    title: str
    num_clusters: int
    num_dropped: int
    sizes: list[tuple[str, int, list[Segment]]]
    """Range of sizes, how many clusters have such a size, the bar."""
    largest: list[tuple[int, ExampleRecord]]
    """Number of records of a cluster, and the one that was kept."""


def build_reasons(ledger: dict[str, Any], *, root: str) -> list[Reason]:
    """Every reason why records were not kept, the most frequent first.

    Args:
        root: what all names of files begin with; it is left out.
    """
    totals = ledger["totals"]
    counted = [(count, name, kind) for kind in (FAILED, DROPPED) for name, count in totals[kind].items()]
    largest = max((count for count, _, _ in counted), default=0)
    examples: dict[str, list[ExampleRecord]] = {}
    for file in ledger["files"]:
        for example in file["examples"]:
            mine = examples.setdefault(example["reason"], [])
            if len(mine) < MAX_EXAMPLES:
                mine.append(_example(example, file=file["path"], root=root))
    return [
        Reason(
            name=name,
            kind=kind,
            count=count,
            segments=stack({kind: count}, room=largest),
            examples=examples.get(name, []),
        )
        for count, name, kind in sorted(counted, key=lambda item: (-item[0], item[1]))
    ]


def build_copies(title: str, counts: CopyCounts | None, *, root: str) -> Copies | None:
    """Clusters by size, in powers of two; None where there are none."""
    if counts is None:
        return None
    binned: Counter[int] = Counter()
    for size, num_clusters in counts.sizes.items():
        binned[(size - 1).bit_length()] += num_clusters
    largest = max(binned.values())
    return Copies(
        title=title,
        num_clusters=binned.total(),
        num_dropped=sum((size - 1) * num_clusters for size, num_clusters in counts.sizes.items()),
        sizes=[
            (_size_range(power), binned[power], stack({DROPPED: binned[power]}, room=largest))
            for power in range(1, max(binned) + 1)
        ],
        largest=[(each.num_records, _example(vars(each), file=each.file, root=root)) for each in counts.largest],
    )


def find_link(name: str) -> str | None:
    """The name where it is an address that a browser may follow: names come out of crawled pages."""
    return name if name.startswith(("https://", "http://")) else None


def _example(values: Mapping[str, Any], *, file: str, root: str) -> ExampleRecord:
    name = values["name"]
    link = find_link(name)
    shown = file.removeprefix(root)
    return ExampleRecord(record=values["record"], file=shown, name=name, link=link, detail=values.get("detail", ""))


def _size_range(power: int) -> str:
    low, high = 2 ** (power - 1) + 1, 2**power
    return str(high) if low == high else f"{low:,}–{high:,}"
