"""Rows of a report's tables: what became of the records of each language, source and file."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from data_tools.record_table import DROPPED, FAILED
from data_tools.report_counts import TableCounts
from data_tools.report_figures import Segment, stack
from data_tools.selection import SPLITS
from data_tools.split_statistics import TextCounts

KEPT = tuple(SPLITS)
FATES = (*KEPT, DROPPED, FAILED)
MAX_LANGUAGES = 30
MAX_FILES = 100


@dataclass(frozen=True, kw_only=True)
class Group:
    """What became of the records of a file, a source or a language."""

    name: str
    counts: dict[str, int]
    """How many were read, kept, dropped and failed; kept also by split where that is known."""
    segments: list[Segment]
    num_tokens: int | None = None
    is_rest: bool = False
    """Whether it stands for all that the table has no room for."""

    @property
    def num_lost(self) -> int:
        """Records that were not kept."""
        return self.counts[DROPPED] + self.counts[FAILED]


@dataclass(frozen=True, kw_only=True)
class Fertility:
    """How many tokens a language's text takes."""

    name: str
    counts: TextCounts
    segments: list[Segment]


def build_languages(tables: TableCounts) -> list[Group]:
    """A row for each language, those with most records first; none where no language is known at all."""
    counts: dict[str, Counter[str]] = {}
    for (fate, language), count in (tables.documents + tables.lost).items():
        counts.setdefault(language, Counter())[fate] += count
    if not any(counts):
        return []
    tokens: Counter[str] = Counter()
    for (_, language), count in tables.tokens.items():
        tokens[language] += count
    groups = [
        _language_group(language or "not identified", fates, num_tokens=tokens[language])
        for language, fates in counts.items()
    ]
    groups.sort(key=lambda group: (-group.counts["read"], group.name))
    shown, rest = groups[:MAX_LANGUAGES], groups[MAX_LANGUAGES:]
    if rest:
        total = Counter[str]()
        for group in rest:
            total.update({fate: group.counts[fate] for fate in FATES})
        num_tokens = sum(group.num_tokens or 0 for group in rest)
        shown.append(_language_group(f"{len(rest)} others", total, num_tokens=num_tokens, is_rest=True))
    return shown


def build_sources(ledger: dict[str, Any], tables: TableCounts) -> list[Group]:
    """A row for each source, in the order given."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for file in ledger["files"]:
        sources.setdefault(file["source"], []).append(file)
    return [_sum_files(name, files, num_tokens=tables.source_tokens[name]) for name, files in sources.items()]


def build_files(ledger: dict[str, Any], *, root: str) -> list[Group]:
    """A row for each file, those that lost most records first.

    Args:
        root: what all names begin with; it is left out.
    """
    groups = [_sum_files(file["path"].removeprefix(root), [file]) for file in ledger["files"]]
    # Sorting is stable: equal ones stay in input order.
    order = sorted(range(len(groups)), key=lambda number: -groups[number].num_lost)
    shown = [groups[number] for number in order[:MAX_FILES]]
    if rest := [ledger["files"][number] for number in order[MAX_FILES:]]:
        shown.append(_sum_files(f"{len(rest)} others", rest, is_rest=True))
    return shown


def build_fertility(stats: dict[str, Any]) -> list[Fertility]:
    """A row for each language whose text was counted, those with most tokens first."""
    counts: dict[str, Counter[str]] = {}
    for split in KEPT:
        for language, values in stats[split].get("languages", {}).items():
            counts.setdefault(language, Counter()).update(values)
    largest = max((values["text_bytes"] / values["num_tokens"] for values in counts.values()), default=0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1]["num_tokens"], item[0]))[:MAX_LANGUAGES]
    unnamed = "all texts" if list(counts) == [""] else "not identified"
    found = []
    for language, values in ordered:
        # Thousandths, since bars are made of whole numbers.
        ratio = round(1000 * values["text_bytes"] / values["num_tokens"])
        segments = stack({"train": ratio}, room=round(1000 * largest))
        found.append(Fertility(name=language or unnamed, counts=TextCounts(**values), segments=segments))
    return found


def _language_group(name: str, fates: Counter[str], *, num_tokens: int, is_rest: bool = False) -> Group:
    counts = {fate: fates[fate] for fate in FATES}
    segments = stack(counts, room=fates.total())
    counts |= {"read": fates.total(), "kept": sum(fates[split] for split in KEPT)}
    return Group(name=name, counts=counts, segments=segments, num_tokens=num_tokens, is_rest=is_rest)


def _sum_files(
    name: str, files: list[dict[str, Any]], *, num_tokens: int | None = None, is_rest: bool = False
) -> Group:
    counts = {
        "kept": sum(file["kept"] for file in files),
        DROPPED: sum(sum(file["dropped"].values()) for file in files),
        FAILED: sum(sum(file["failed"].values()) for file in files),
    }
    num_read = sum(file["read"] for file in files)
    segments = stack(counts, room=num_read)
    return Group(
        name=name, counts=counts | {"read": num_read}, segments=segments, num_tokens=num_tokens, is_rest=is_rest
    )
