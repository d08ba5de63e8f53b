"""Compare how many tokens tokenizers need for the same text, by language.

    trireme tokenizer-report TOKENIZER [TOKENIZER ...] --shard OUTPUT_DIR
    trireme tokenizer-report TOKENIZER [TOKENIZER ...] --text FILE [FILE ...]

TOKENIZER is a SentencePiece .model, a tokenizer.json, or a directory with one of them. OUTPUT_DIR is the directory of a
preparation, whose validation documents are used. FILE is a text file, or .jsonl with the key "text".
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from data_tools.config.filtering import LanguageConfig, QualityConfig
from data_tools.filters.language import LanguageIdentifier
from data_tools.filters.quality.filter import ThresholdTable
from data_tools.text.words import count_words
from data_tools.tokenizer.files import find_tokenizer
from trireme.errors import ConfigError, Violation, exit_code_of
from trireme.shards.document_table import DOCUMENTS_SUFFIX
from trireme.shards.shard import ShardReader, shard_file
from trireme.tokenizer.tokenizer import Tokenizer

MAX_DOCUMENTS = 10_000
ALL = "all"
"""Name of the rows for all languages."""

Split = Literal["file", "paragraph", "line"]
_PARAGRAPH_END = re.compile(r"\n{2,}")


@dataclass(kw_only=True)
class Fertility:
    """Counts of a tokenizer for the documents of a language."""

    tokenizer: str
    language: str
    num_documents: int = 0
    num_words: int = 0
    """In scripts without spaces, several characters count as a word, as in the quality filters."""
    num_characters: int = 0
    num_bytes: int = 0
    """In UTF-8."""
    num_tokens: int = 0
    num_byte_tokens: int = 0
    """Tokens of single bytes, which may be a part of a character."""

    @property
    def tokens_per_word(self) -> float:
        """Return the fertility: tokens per word."""
        return self.num_tokens / max(1, self.num_words)

    @property
    def tokens_per_character(self) -> float:
        """Return tokens per character, comparable between languages whatever a word is."""
        return self.num_tokens / max(1, self.num_characters)

    @property
    def bytes_per_token(self) -> float:
        """Return bytes per token; higher is more compact."""
        return self.num_bytes / max(1, self.num_tokens)

    @property
    def byte_token_share(self) -> float:
        """Return the share of byte tokens."""
        return self.num_byte_tokens / max(1, self.num_tokens)

    def add(self, other: "Fertility") -> None:
        """Add the counts of other documents."""
        for name, value in asdict(other).items():
            if name.startswith("num_"):
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and shares."""
        shares = ("tokens_per_word", "tokens_per_character", "bytes_per_token", "byte_token_share")
        return {**asdict(self), **{name: getattr(self, name) for name in shares}}


def measure(tokenizers: dict[str, Tokenizer], texts: Iterable[tuple[str, str]]) -> list[Fertility]:
    """Tokenize every text with every tokenizer.

    Args:
        tokenizers: by their names in the report.
        texts: language and text of each document; an empty language is identified.
    Returns:
        One per language and tokenizer, languages with most characters first; those of all languages last.
    """
    thresholds = ThresholdTable(QualityConfig())
    identifier = LanguageIdentifier(LanguageConfig(identify=True))
    found: dict[str, dict[str, Fertility]] = defaultdict(
        lambda: {name: Fertility(tokenizer=name, language="") for name in tokenizers}
    )
    byte_ids = {name: np.array(sorted(tokenizer.byte_ids), np.int64) for name, tokenizer in tokenizers.items()}
    for given, text in texts:
        language = given or identifier.identify(text)[0]
        num_words = count_words(text, thresholds(language).characters_per_word)
        for name, tokenizer in tokenizers.items():
            ids = np.array(tokenizer.encode(text), np.int64)
            document = Fertility(
                tokenizer=name,
                language=language,
                num_documents=1,
                num_words=num_words,
                num_characters=len(text),
                num_bytes=len(text.encode("utf-8")),
                num_tokens=len(ids),
                num_byte_tokens=int(np.isin(ids, byte_ids[name]).sum()),
            )
            found[language][name].add(document)
            found[ALL][name].add(document)
    totals = found.pop(ALL, {})
    ordered = sorted(found.items(), key=lambda item: -max(each.num_characters for each in item[1].values()))
    return [replace(each, language=language) for language, row in [*ordered, (ALL, totals)] for each in row.values()]


def render(rows: list[Fertility]) -> str:
    """Render a table with a line per language and tokenizer; several tokenizers are compared with the first."""
    width = max([len("tokenizer"), *(len(row.tokenizer) for row in rows)])
    several = len({row.tokenizer for row in rows}) > 1
    head = f"language  documents  {'tokenizer':<{width}}  tokens/word  tokens/character  bytes/token  byte tokens"
    lines = [head + ("     tokens" if several else "")]
    first: Fertility | None = None
    for row in rows:
        is_first = first is None or first.language != row.language
        first = row if first is None or is_first else first
        start = f"{row.language:<8}  {row.num_documents:>9}" if is_first else " " * 19
        line = (
            f"{start}  {row.tokenizer:<{width}}  {row.tokens_per_word:>11.3f}  {row.tokens_per_character:>16.4f}"
            f"  {row.bytes_per_token:>11.3f}  {row.byte_token_share:>11.2%}"
        )
        change = row.num_tokens / max(1, first.num_tokens) - 1
        lines.append(line + (f"  {row.num_tokens if is_first else f'{change:+.1%}':>9}" if several else ""))
    return "\n".join(lines)


def read_validation(directory: Path, *, max_documents: int) -> Iterator[tuple[str, str]]:
    """Yield language and text of a preparation's validation documents, evenly spaced if there are more.

    Raises:
        ConfigError: the directory has no tokenizer or no validation shard.
    """
    path = find_tokenizer(directory)
    prefixes = sorted(file.with_suffix("") for file in directory.glob("validation*.idx"))
    if path is None or not prefixes:
        what = "tokenizer" if path is None else "validation shard"
        fix = "Use the data_prep.output_dir of a finished preparation, or --text."
        raise ConfigError([Violation(path="--shard", value=directory, message=f"no {what} in this directory", fix=fix)])
    tokenizer = Tokenizer(path)
    readers = [ShardReader(prefix) for prefix in prefixes]
    starts = np.cumsum([0, *(reader.num_documents for reader in readers)])
    chosen = np.unique(np.linspace(0, starts[-1] - 1, min(max_documents, int(starts[-1])), dtype=np.int64))
    for start, reader in zip(starts, readers, strict=False):
        table = shard_file(reader.prefix, DOCUMENTS_SUFFIX)
        languages = pq.read_table(table, columns=["language"]).column(0) if table.exists() else None
        for number in chosen[(chosen >= start) & (chosen < start + reader.num_documents)] - start:
            text = tokenizer.decode(reader.document(int(number)).tolist())
            yield ("" if languages is None else languages[int(number)].as_py()), text


def read_texts(paths: Iterable[Path], *, split: Split) -> Iterator[tuple[str, str]]:
    """Yield texts of unknown language.

    Args:
        split: unit of a text file that is a document; in a .jsonl file it is a line.
    Raises:
        ConfigError: a file cannot be read.
    """
    for path in paths:
        try:
            content = path.read_text(encoding="utf-8")
            if path.suffix == ".jsonl":
                parts = [json.loads(line)["text"] for line in content.split("\n") if line.strip()]
            elif split == "file":
                parts = [content]
            else:
                parts = _PARAGRAPH_END.split(content) if split == "paragraph" else content.split("\n")
        except (OSError, ValueError, KeyError, TypeError) as error:
            rule, fix = f"cannot read the file: {error!r}", "Use files in UTF-8: text, or .jsonl with the key text."
            raise ConfigError([Violation(path="--text", value=path, message=rule, fix=fix)]) from error
        yield from (("", part) for part in parts if part.strip())


def open_tokenizers(paths: Iterable[Path]) -> dict[str, Tokenizer]:
    """Open tokenizers by their paths.

    Raises:
        ConfigError: carries a violation for each unusable one.
    """
    opened, violations = {}, []
    for path in paths:
        try:
            opened[str(path)] = Tokenizer(find_tokenizer(path) or path)
        except ConfigError as error:
            violations += [replace(violation, path="TOKENIZER") for violation in error.violations]
    if violations:
        raise ConfigError(violations)
    return opened


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme tokenizer-report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tokenizers", type=Path, nargs="+", metavar="TOKENIZER")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--shard", type=Path, metavar="OUTPUT_DIR", help="measure on the validation documents of a preparation"
    )
    source.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="measure on text files")
    parser.add_argument(
        "--split",
        choices=("file", "paragraph", "line"),
        default="file",
        help="unit of a text file that is a document (default: %(default)s)",
    )
    parser.add_argument(
        "--max-documents",
        type=int,
        default=MAX_DOCUMENTS,
        metavar="N",
        help="maximum documents of a preparation (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    def body() -> int:
        if arguments.max_documents < 1:
            violation = Violation(
                path="--max-documents",
                value=arguments.max_documents,
                message="must be at least 1",
                fix="Use 1 or more.",
            )
            raise ConfigError([violation])
        tokenizers = open_tokenizers(arguments.tokenizers)
        if arguments.shard is not None:
            texts = read_validation(arguments.shard, max_documents=arguments.max_documents)
        else:
            texts = read_texts(arguments.text, split=arguments.split)
        rows = measure(tokenizers, texts)
        print(json.dumps([row.to_dict() for row in rows], indent=1) if arguments.json else render(rows))
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
