"""stats.json: what a preparation consists of, for programs; and the summary that a person reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.packing import SplitResult
from data_tools.split_statistics import SplitStatistics
from data_tools.stage_timings import REPORT_NAME
from data_tools.tokenizer_files import find_tokenizer
from trireme.progress import format_count, format_number

STATS_VERSION = 1
MAX_REASONS = 8


def compute_unigram_entropy(counted: np.ndarray, *, under: np.ndarray) -> float | None:
    """Mean nats per token of `counted` when each token is predicted by its frequency in `under`, add-one smoothed.

    A model that reaches less on validation has learnt more than how often tokens occur.

    Args:
        counted: [vocab_size] how often each token occurs in the text to predict.
        under: [vocab_size] the same of the text that the frequencies are taken from.
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
    """Put together what stats.json holds; docs/data_preparation.md says what each key means.

    Args:
        unknown_id: the token that stands for what the tokenizer cannot write.
        statistics: split -> what its documents look like; where there is none, stats.json is silent about it.
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
    """The lines that end a preparation."""
    totals = ledger["totals"]
    lines = [f"prepared in {output}"]
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
            f"  unigram entropy of validation {stats['unigram_entropy_nats']:.4f} nats: a model that knows only how"
            " often tokens occur has this loss"
        )
    lines.append(f"  vocabulary {stats['vocab_size']}: {find_tokenizer(output)}")
    prefixes = " and ".join(str(output / name) for name in ("train", "validation") if stats[name]["num_tokens"])
    lines.append(f"  shards {prefixes} (.bin, .idx, .documents.parquet, .manifest.json)")
    lines.append(f"  what became of every record: {output / 'ledger.json'}; numbers: {output / 'stats.json'}")
    if (output / REPORT_NAME).exists():
        lines.append(f"  to look at in a browser: {output / REPORT_NAME}")
    lines.append(f"  look inside: python -m data_tools.inspect {output / 'train'} --doc 0")
    return lines


def find_warnings(*, stats: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    """What a person should look at although the preparation is finished."""
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
        warnings.append(f"nothing was kept of {', '.join(empty[:MAX_REASONS])}{more}")
    if not stats["validation"]["num_documents"] and stats["validation_fraction"]:
        warnings.append("no document was held out for validation; raise data_prep.split.validation_fraction")
    evaluations = stats.get("evaluations")
    if evaluations and evaluations["num_short_texts"]:
        warnings.append(
            f"{evaluations['num_short_texts']} of {evaluations['num_texts']} evaluation texts are shorter than one"
            " n-gram and were not looked for; lower data_prep.decontamination.ngram_words or ngram_characters"
        )
    unknown = sum(stats[name]["num_unknown_tokens"] for name in ("train", "validation"))
    if unknown:
        tokens = format_number(unknown, "token")
        warnings.append(f"the given tokenizer wrote {tokens} as unknown; take one with byte fallback")
    return warnings


def _shown(counts: dict[str, int], word: str) -> str:
    if not counts:
        return f"0 {word}"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{reason} {count}" for reason, count in ordered[:MAX_REASONS]]
    rest = sum(count for _, count in ordered[MAX_REASONS:])
    return f"{sum(counts.values())} {word} ({', '.join([*parts, *([f'others {rest}'] if rest else [])])})"
