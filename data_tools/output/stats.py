"""stats.json: the statistics of a preparation by split and language; and the summary printed at its end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.output.publish import REPORT_NAME
from data_tools.tokenizer.files import find_tokenizer
from trireme.progress import format_count, format_number

STATS_VERSION = 1
MAX_REASONS = 8

BINS_PER_DECADE = 10
NUM_DECADES = 12
EDGES = np.array(
    sorted({0, *(round(10 ** (step / BINS_PER_DECADE)) for step in range(NUM_DECADES * BINS_PER_DECADE + 1))}),
    np.int64,
)
"""Bin i of a histogram holds the lengths from EDGES[i] to EDGES[i + 1] - 1; ten bins per decade, fewer below ten."""


@dataclass(kw_only=True)
class TextCounts:
    """Amount of text."""

    num_documents: int = 0
    num_tokens: int = 0
    num_characters: int = 0
    text_bytes: int = 0
    """In UTF-8."""


class LengthHistogram:
    """Count lengths in logarithmic bins."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(EDGES) - 1, np.int64)

    def add(self, lengths: np.ndarray) -> None:
        """Count lengths.

        Args:
            lengths: [n] integers, 0 or more.
        """
        bins = np.searchsorted(EDGES, lengths, side="right") - 1
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def to_dict(self) -> dict[str, list[int]]:
        """Return edges and counts from the first filled bin to the last; there is one edge more than counts."""
        filled = np.flatnonzero(self._counts)
        if not len(filled):
            return {"edges": [], "counts": []}
        first, last = int(filled[0]), int(filled[-1])
        return {"edges": EDGES[first : last + 2].tolist(), "counts": self._counts[first : last + 1].tolist()}


class SplitStatistics:
    """Accumulate the statistics of a split's documents."""

    def __init__(self) -> None:
        self._languages: dict[str, np.ndarray] = {}
        """Language -> [4] int64 in the order of `TextCounts`."""
        self._token_lengths, self._character_lengths = LengthHistogram(), LengthHistogram()

    def add(
        self,
        languages: Sequence[str],
        *,
        num_tokens: Iterable[int] | np.ndarray,
        num_characters: Iterable[int] | np.ndarray,
        num_bytes: Iterable[int] | np.ndarray,
    ) -> None:
        """Count a batch of documents, in any order.

        Args:
            languages: [n] fastText's codes; empty where the language was not identified.
            num_tokens: [n] including the token that ends a document.
            num_characters: [n] Unicode characters of the text.
            num_bytes: [n] of the text in UTF-8.
        """
        if not len(languages):
            return
        lengths = np.stack([np.fromiter(values, np.int64) for values in (num_tokens, num_characters, num_bytes)])
        self._token_lengths.add(lengths[0])
        self._character_lengths.add(lengths[1])
        names, places = np.unique(np.asarray(languages, dtype=np.str_), return_inverse=True)
        sums = np.zeros((len(names), 4), np.int64)
        np.add.at(sums, places, np.stack([np.ones_like(lengths[0]), *lengths], axis=1))
        for name, counts in zip(names.tolist(), sums, strict=True):
            self._languages[name] = self._languages.get(name, 0) + counts

    def by_language(self) -> dict[str, TextCounts]:
        """Return language -> amount of text, in the order of the codes."""
        return {
            name: TextCounts(
                num_documents=counts[0], num_tokens=counts[1], num_characters=counts[2], text_bytes=counts[3]
            )
            for name, counts in sorted((name, counts.tolist()) for name, counts in self._languages.items())
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the part of stats.json: num_characters, languages and lengths."""
        languages = self.by_language()
        return {
            "num_characters": sum(counts.num_characters for counts in languages.values()),
            "languages": {name: vars(counts) for name, counts in languages.items()},
            "lengths": {"tokens": self._token_lengths.to_dict(), "characters": self._character_lengths.to_dict()},
        }


@dataclass(kw_only=True)
class SplitResult:
    """The result of writing a split's shard."""

    num_documents: int = 0
    num_tokens: int = 0
    text_bytes: int = 0
    dtype: str
    """Integer type of the .bin by numpy's name."""
    token_counts: np.ndarray
    """[vocab_size] int64: how often each token occurs."""
    statistics: SplitStatistics = field(default_factory=SplitStatistics)
    """Of its documents."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As a manifest records them; empty if there is no document."""


def compute_unigram_entropy(counted: np.ndarray, *, under: np.ndarray) -> float | None:
    """Compute the mean nats per token of `counted`, each token predicted by its add-one smoothed frequency in `under`.

    A model with a lower validation loss has learned more than token frequencies.

    Args:
        counted: [vocab_size] token counts of the text to predict.
        under: [vocab_size] token counts of the text that the frequencies are estimated from.
    """
    if not counted.sum():
        return None
    log_probabilities = np.log((under + 1.0) / (under.sum() + len(under)))
    return float(-(counted * log_probabilities).sum() / counted.sum())


def build_stats(
    results: dict[str, SplitResult],
    *,
    unknown_id: int | None,
    statistics: Mapping[str, SplitStatistics] | None = None,
) -> dict[str, Any]:
    """Build the content of stats.json; docs/data/outputs.md explains each key.

    Args:
        unknown_id: the token for text that the tokenizer cannot encode.
        statistics: split -> statistics of its documents; omitted from stats.json where missing.
    """
    train = results["train"].token_counts
    stats: dict[str, Any] = {"version": STATS_VERSION, "vocab_size": len(train)}
    for name, result in results.items():
        stats[name] = {
            "num_documents": result.num_documents,
            "num_tokens": result.num_tokens,
            "text_bytes": result.text_bytes,
            "bytes_per_token": result.text_bytes / result.num_tokens if result.num_tokens else None,
            "unigram_entropy_nats": compute_unigram_entropy(result.token_counts, under=train),
            "num_unknown_tokens": int(result.token_counts[unknown_id]) if unknown_id is not None else 0,
            "num_distinct_tokens": int(np.count_nonzero(result.token_counts)),
        }
        if statistics is not None and name in statistics:
            stats[name] |= statistics[name].to_dict()
    stats["unigram_entropy_nats"] = stats["validation"]["unigram_entropy_nats"]
    return stats


def summarize(output: Path, *, stats: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    """Build the summary that is printed at the end of a preparation."""
    totals = ledger["totals"]
    lines = [f"Prepared data in {output}"]
    for name in ("train", "validation"):
        split = stats[name]
        lines.append(
            f"  {name:<10} {split['num_documents']:>9} documents  {format_count(split['num_tokens']):>6} tokens"
            + (f"  {split['bytes_per_token']:.2f} bytes/token" if split["num_tokens"] else "")
        )
    dropped, failed = _shown(totals["dropped"], "dropped"), _shown(totals["failed"], "failed")
    lines.append(f"  records    {totals['read']:>9} read = {totals['kept']} kept + {dropped} + {failed}")
    if stats["unigram_entropy_nats"] is not None:
        lines.append(
            f"  unigram entropy of validation: {stats['unigram_entropy_nats']:.4f} nats (the loss of a model that knows"
            " only token frequencies)"
        )
    lines.append(f"  tokenizer: {find_tokenizer(output)} ({stats['vocab_size']} tokens)")
    prefixes = " and ".join(str(output / name) for name in ("train", "validation") if stats[name]["num_tokens"])
    lines.append(f"  shards: {prefixes} (.bin, .idx, .documents.parquet, .manifest.json)")
    lines.append(f"  per-record outcomes: {output / 'ledger.json'}; statistics: {output / 'stats.json'}")
    if (output / REPORT_NAME).exists():
        lines.append(f"  report (open in a browser): {output / REPORT_NAME}")
    lines.append(f"  inspect: trireme inspect {output / 'train'} --doc 0")
    return lines


def find_warnings(*, stats: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    """List what the user should look at although the preparation is finished."""
    warnings = []
    totals = ledger["totals"]
    if totals["failed"]:
        files = [file for file in ledger["files"] if file["failed"]]
        counts = ", ".join(f"{reason} {count}" for reason, count in totals["failed"].items())
        num_failed = sum(totals["failed"].values())
        warnings.append(
            f"{format_number(num_failed, 'record')} could not be read ({counts}), in"
            f" {format_number(len(files), 'file')}:"
        )
        for file in files[:MAX_REASONS]:
            example = next((e for e in file["examples"] if e["reason"] in file["failed"]), None)
            detail = f": record {example['record']} {example['name']} {example['detail']}".rstrip() if example else ""
            warnings.append(f"  {file['path']}: {sum(file['failed'].values())}{detail}")
    empty = [file["path"] for file in ledger["files"] if not file["kept"]]
    if empty:
        more = f" and {len(empty) - MAX_REASONS} more" if len(empty) > MAX_REASONS else ""
        warnings.append(f"no document was kept from {', '.join(empty[:MAX_REASONS])}{more}")
    if not stats["validation"]["num_documents"] and stats["validation_fraction"]:
        warnings.append("no document was held out for validation. Raise data_prep.split.validation_fraction.")
    evaluations = stats.get("evaluations")
    if evaluations and evaluations["num_short_texts"]:
        warnings.append(
            f"{evaluations['num_short_texts']} of {evaluations['num_texts']} evaluation texts are shorter than one"
            " n-gram and were skipped. Lower data_prep.decontamination.ngram_words or ngram_characters."
        )
    unknown = sum(stats[name]["num_unknown_tokens"] for name in ("train", "validation"))
    if unknown:
        tokens = format_number(unknown, "token")
        warnings.append(f"the given tokenizer encoded {tokens} as unknown. Use a tokenizer with byte fallback.")
    return warnings


def _shown(counts: dict[str, int], word: str) -> str:
    if not counts:
        return f"0 {word}"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{reason} {count}" for reason, count in ordered[:MAX_REASONS]]
    rest = sum(count for _, count in ordered[MAX_REASONS:])
    return f"{sum(counts.values())} {word} ({', '.join([*parts, *([f'others {rest}'] if rest else [])])})"
