"""The rows of a report's tables: records, languages, sources, files, samples."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.dedup.decide import SPLITS
from data_tools.output.stats import TextCounts
from data_tools.output.tables import DROPPED, FAILED
from data_tools.report.counts import CopyCounts, TableCounts
from data_tools.report.figures import Segment, stack
from data_tools.tokenizer.files import find_tokenizer
from trireme.shards.document_table import DocumentOrigin, open_documents
from trireme.shards.shard import ShardReader, shard_file
from trireme.tokenizer.tokenizer import Tokenizer

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
    """Return every reason why records were not kept, the most frequent first.

    Args:
        root: common beginning of all file names, removed from them.
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
    """Group clusters by size, in powers of two; None if there are none."""
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
    """Return the name where it is an address that a browser may follow: names come out of crawled pages."""
    return name if name.startswith(("https://", "http://")) else None


def _example(values: Mapping[str, Any], *, file: str, root: str) -> ExampleRecord:
    name = values["name"]
    link = find_link(name)
    shown = file.removeprefix(root)
    return ExampleRecord(record=values["record"], file=shown, name=name, link=link, detail=values.get("detail", ""))


def _size_range(power: int) -> str:
    low, high = 2 ** (power - 1) + 1, 2**power
    return str(high) if low == high else f"{low:,}–{high:,}"


KEPT = tuple(SPLITS)
STATUSES = (*KEPT, DROPPED, FAILED)
MAX_LANGUAGES = 30
MAX_FILES = 100


@dataclass(frozen=True, kw_only=True)
class Group:
    """Outcomes of the records of a file, a source or a language."""

    name: str
    counts: dict[str, int]
    """How many were read, kept, dropped and failed; kept also by split where that is known."""
    segments: list[Segment]
    num_tokens: int | None = None
    is_rest: bool = False
    """Whether it sums up the rows that the table does not list."""

    @property
    def num_lost(self) -> int:
        """Return the number of records that were not kept."""
        return self.counts[DROPPED] + self.counts[FAILED]


@dataclass(frozen=True, kw_only=True)
class Fertility:
    """How many tokens a language's text takes."""

    name: str
    counts: TextCounts
    segments: list[Segment]


def build_languages(tables: TableCounts) -> list[Group]:
    """Return a row for each language, those with most records first; none where no language is known at all."""
    counts: dict[str, Counter[str]] = {}
    for (status, language), count in (tables.documents + tables.lost).items():
        counts.setdefault(language, Counter())[status] += count
    if not any(counts):
        return []
    tokens: Counter[str] = Counter()
    for (_, language), count in tables.tokens.items():
        tokens[language] += count
    groups = [
        _language_group(language or "not identified", statuses, num_tokens=tokens[language])
        for language, statuses in counts.items()
    ]
    groups.sort(key=lambda group: (-group.counts["read"], group.name))
    shown, rest = groups[:MAX_LANGUAGES], groups[MAX_LANGUAGES:]
    if rest:
        total = Counter[str]()
        for group in rest:
            total.update({status: group.counts[status] for status in STATUSES})
        num_tokens = sum(group.num_tokens or 0 for group in rest)
        shown.append(_language_group(f"{len(rest)} others", total, num_tokens=num_tokens, is_rest=True))
    return shown


def build_sources(ledger: dict[str, Any], tables: TableCounts) -> list[Group]:
    """Return a row for each source, in the order given."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for file in ledger["files"]:
        sources.setdefault(file["source"], []).append(file)
    return [_sum_files(name, files, num_tokens=tables.source_tokens[name]) for name, files in sources.items()]


def build_files(ledger: dict[str, Any], *, root: str) -> list[Group]:
    """Return a row for each file, those that lost most records first.

    Args:
        root: common beginning of all file names, removed from them.
    """
    groups = [_sum_files(file["path"].removeprefix(root), [file]) for file in ledger["files"]]
    # Sorting is stable: equal ones stay in input order.
    order = sorted(range(len(groups)), key=lambda number: -groups[number].num_lost)
    shown = [groups[number] for number in order[:MAX_FILES]]
    if rest := [ledger["files"][number] for number in order[MAX_FILES:]]:
        shown.append(_sum_files(f"{len(rest)} others", rest, is_rest=True))
    return shown


def build_fertility(stats: dict[str, Any]) -> list[Fertility]:
    """Return a row for each language whose text was counted, those with most tokens first."""
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


def _language_group(name: str, statuses: Counter[str], *, num_tokens: int, is_rest: bool = False) -> Group:
    counts = {status: statuses[status] for status in STATUSES}
    segments = stack(counts, room=statuses.total())
    counts |= {"read": statuses.total(), "kept": sum(statuses[split] for split in KEPT)}
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


NUM_SAMPLES = 8
MAX_TOKENS = 400


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The beginning of a document."""

    number: int
    """In the shard."""
    origin: DocumentOrigin
    link: str | None
    """Its address, where that is one that a browser may follow."""
    text: str
    is_cut: bool
    """Whether the text is cut off."""


def read_samples(output: Path) -> list[Sample]:
    """Read evenly spaced documents of the training shard.

    Returns:
        At most NUM_SAMPLES; none where shard, table or tokenizer are not there.
    Raises:
        ConfigError: one of them is damaged.
    """
    prefix = output / "train"
    table, model = open_documents(prefix), find_tokenizer(output)
    if table is None or model is None or not shard_file(prefix, ".idx").is_file():
        return []
    reader, tokenizer = ShardReader(prefix), Tokenizer(model)
    numbers = {(2 * place + 1) * reader.num_documents // (2 * NUM_SAMPLES) for place in range(NUM_SAMPLES)}
    samples = []
    for number in sorted(numbers):
        origin, tokens = table.origin(number), reader.document(number)
        is_cut = len(tokens) > MAX_TOKENS
        text = tokenizer.decode(tokens[:MAX_TOKENS].tolist())
        if is_cut:
            text = text.rstrip("\ufffd")  # a character that is written in bytes may be cut in two
        samples.append(Sample(number=number, origin=origin, link=find_link(origin.url), text=text, is_cut=is_cut))
    return samples
