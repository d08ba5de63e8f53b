"""Report which evaluation texts occur in token shards.

    trireme contamination DIRECTORY/train --texts suite.jsonl [--texts FILE ...]

A text of --texts is a line of a .jsonl file, all texts of its fields together, or a whole file of another kind. It
occurs in a shard if they share a run of 13 words (of 20 characters in scripts without spaces), regardless of case and
punctuation: the measure of `data_prep.decontamination`. The report needs the shards and their tokenizer alone, and so
also works for shards that another program wrote. Prints JSON. Exit codes: 0 done, 2 invalid input.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.filters.decontamination import NgramTable, build_table
from data_tools.text.ngrams import hash_ngrams, hash_tokens
from data_tools.tokenizer.files import open_shard_tokenizer
from trireme.command import run_command, write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.logging import configure_logging
from trireme.progress import PlainProgress
from trireme.shards.document_table import DocumentTable, open_documents
from trireme.shards.manifest import read_manifest
from trireme.shards.shard import ShardReader
from trireme.strict_json import to_json
from trireme.tokenizer.tokenizer import Tokenizer

MAX_EXAMPLES = 5
"""Documents that are named for each text."""
_LOGGER = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TextReport:
    """Hold what was found of one evaluation text."""

    file: str
    line: int | None
    """Of a .jsonl file, from 1; None for a whole file."""
    ngrams: np.ndarray
    """[n] uint64, each once."""
    found: set[int] = field(default_factory=set)
    """N-grams that occur in a shard."""
    num_documents: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Compare all documents with the texts and print the report.

    Raises:
        ConfigError: a shard, its tokenizer or a file of texts cannot be used.
    """
    violations = [
        Violation(path=f"--{name.replace('_', '-')}", value=value, message="must be at least 1", fix="")
        for name in ("ngram_words", "ngram_characters")
        if (value := getattr(arguments, name)) < 1
    ]
    prefixes = [prefix.removesuffix(".bin").removesuffix(".idx") for prefix in arguments.prefix]
    violations += [
        Violation(path="PREFIX", value=prefix, message="is listed twice", fix="List it once.")
        for prefix in dict.fromkeys(prefixes)
        if prefixes.count(prefix) > 1
    ]
    raise_if_any(violations)
    texts, num_short = read_texts(
        arguments.texts, ngram_words=arguments.ngram_words, ngram_characters=arguments.ngram_characters
    )
    if not texts:
        given = ", ".join(map(str, arguments.texts))
        length = f"{arguments.ngram_words} words (characters in scripts without spaces: {arguments.ngram_characters})"
        message = f"have no text of at least {length}; {num_short} are shorter"
        fix = "Give files with longer texts, or set --ngram-words and --ngram-characters lower."
        raise ConfigError([Violation(path="--texts", value=given, message=message, fix=fix)])
    search = TextSearch(texts, ngram_words=arguments.ngram_words, ngram_characters=arguments.ngram_characters)
    num_documents = sum(search.search_shard(prefix, tokenizer_path=arguments.tokenizer) for prefix in prefixes)
    reports = [report for report, _ in texts]
    write_output(to_json(describe(reports, num_short=num_short, num_documents=num_documents)) + "\n")
    return EXIT_OK


def read_texts(
    paths: Sequence[Path], *, ngram_words: int, ngram_characters: int
) -> tuple[list[tuple[TextReport, bool]], int]:
    """Read evaluation texts.

    Returns:
        each text with whether its script has no spaces, and the number of texts that are shorter than one n-gram.
    Raises:
        ConfigError: a file cannot be read, or a line is no JSON.
    """
    found: list[tuple[TextReport, bool]] = []
    num_short = 0
    for path in paths:
        for line, text in _split(path.expanduser()):
            tokens = hash_tokens(text)
            n = ngram_characters if tokens.is_unspaced else ngram_words
            if len(tokens.hashes) < n:
                num_short += 1
                continue
            ngrams = np.unique(hash_ngrams(tokens.hashes, n=n))
            found.append((TextReport(file=str(path), line=line, ngrams=ngrams), tokens.is_unspaced))
    return found, num_short


def _split(path: Path) -> Iterator[tuple[int | None, str]]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message, fix = f"cannot be read: {error}", "Give a file of text, or of JSON lines, in UTF-8."
        raise ConfigError([Violation(path="--texts", value=path, message=message, fix=fix)]) from error
    if path.suffix != ".jsonl":
        yield None, content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = "\n".join(_texts_of(json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            message = f"is no JSON that can be read: {reason}"
            place = f"{path}, line {number}"
            raise ConfigError([Violation(path=place, value="", message=message, fix="Correct the file.")]) from error
        yield number, text


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_of(part)


class TextSearch:
    """Find n-grams of texts in documents.

    Args:
        texts: with whether their script has no spaces.
    """

    def __init__(self, texts: Sequence[tuple[TextReport, bool]], *, ngram_words: int, ngram_characters: int) -> None:
        self._texts = [report for report, _ in texts]
        self._tables: list[tuple[NgramTable, int]] = []
        self._owners: dict[int, list[int]] = {}
        for is_unspaced, n in ((False, ngram_words), (True, ngram_characters)):
            parts = [
                (report.ngrams, number) for number, (report, unspaced) in enumerate(texts) if unspaced == is_unspaced
            ]
            if parts:
                self._tables.append((build_table(parts), n))
        for number, report in enumerate(self._texts):
            for ngram in report.ngrams.tolist():
                self._owners.setdefault(ngram, []).append(number)

    def search_shard(self, prefix: str, *, tokenizer_path: Path | None) -> int:
        """Search all documents of a shard; return their number.

        Raises:
            ConfigError: the shard cannot be used, or there is no tokenizer for it.
        """
        reader, origins = ShardReader(prefix), open_documents(prefix)
        tokenizer = open_shard_tokenizer(reader, read_manifest(prefix), path=tokenizer_path)
        if tokenizer is None:
            message = f"must be set: there is no tokenizer next to {prefix}"
            fix = "Set it to the tokenizer of the shard."
            raise ConfigError([Violation(path="--tokenizer", value="", message=message, fix=fix)])
        progress = PlainProgress("Compare", total=reader.num_documents, unit="documents", write=_LOGGER.info)
        for document in range(reader.num_documents):
            self._search_document(reader, document, tokenizer=tokenizer, origins=origins)
            progress.update(document + 1)
        progress.finish(reader.num_documents)
        return reader.num_documents

    def _search_document(
        self, reader: ShardReader, document: int, *, tokenizer: Tokenizer, origins: DocumentTable | None
    ) -> None:
        hashes = hash_tokens(tokenizer.decode(reader.document(document).tolist())).hashes
        found: dict[int, set[int]] = {}
        for table, n in self._tables:
            if len(hashes) < n:
                continue
            for place in np.unique(table.find(hash_ngrams(hashes, n=n))).tolist():
                ngram = int(table.ngrams[place])
                for owner in self._owners[ngram]:
                    found.setdefault(owner, set()).add(ngram)
        for owner, ngrams in found.items():
            report = self._texts[owner]
            report.found |= ngrams
            report.num_documents += 1
            if len(report.examples) < MAX_EXAMPLES:
                report.examples.append(_describe_place(reader, document, origins=origins, num_ngrams=len(ngrams)))


def _describe_place(
    reader: ShardReader, document: int, *, origins: DocumentTable | None, num_ngrams: int
) -> dict[str, Any]:
    place: dict[str, Any] = {"shard": str(reader.prefix), "document": document, "num_ngrams": num_ngrams}
    if origins is not None:
        origin = origins.origin(document)
        place |= {"source": origin.source, "url": origin.url, "title": origin.title}
    return place


def describe(reports: Sequence[TextReport], *, num_short: int, num_documents: int) -> dict[str, Any]:
    """Build the report.

    Returns:
        counts, and `texts`: those that occur, the most complete first, each with the share of its n-grams that was
        found, the number of documents, and up to `MAX_EXAMPLES` of them.
    """
    found = sorted(
        (report for report in reports if report.found),
        key=lambda report: (-len(report.found) / len(report.ngrams), report.file, report.line or 0),
    )
    return {
        "num_documents": num_documents,
        "num_texts": len(reports),
        "num_short_texts": num_short,
        "num_contaminated": len(found),
        "texts": [
            {
                "file": report.file,
                "line": report.line,
                "share_found": len(report.found) / len(report.ngrams),
                "num_documents": report.num_documents,
                "examples": report.examples,
            }
            for report in found
        ],
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme contamination", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", nargs="+", metavar="PREFIX", help="shards, without .bin and .idx")
    parser.add_argument("--texts", type=Path, action="append", required=True, metavar="FILE", help="may be repeated")
    parser.add_argument("--tokenizer", type=Path, help="of the shards (default: the one next to them)")
    parser.add_argument("--ngram-words", type=int, default=13, metavar="N", help="length of a run (default: 13)")
    parser.add_argument(
        "--ngram-characters", type=int, default=20, metavar="N", help="in scripts without spaces (default: 20)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
