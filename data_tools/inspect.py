"""Inspect a token shard: verify it, show its statistics, and print a document with its origin, or a row of examples.

PREFIX stands for PREFIX.bin and PREFIX.idx; shards written by Megatron-LM work too.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_tools.examples.show_row import describe_examples, describe_row, may_color
from data_tools.output.tables import (
    RECORD_TABLE_NAME,
    FoundRecord,
    find_documents,
    find_records,
)
from data_tools.tokenizer.files import open_shard_tokenizer
from trireme.errors import ConfigError, Violation, exit_code_of, raise_if_any
from trireme.progress import format_bytes, format_count, format_number
from trireme.shards.document_table import DOCUMENTS_SUFFIX, open_documents
from trireme.shards.examples import read_examples
from trireme.shards.manifest import MANIFEST_SUFFIX, ShardManifest, check_shard, read_manifest
from trireme.shards.shard import ShardReader, shard_file
from trireme.tokenizer.tokenizer import Tokenizer

MAX_FOUND = 20


def describe_shard(reader: ShardReader, manifest: ShardManifest | None, *, has_examples: bool = False) -> Iterator[str]:
    """Describe a shard, line by line.

    Args:
        has_examples: it holds rows of examples: each of its documents is a row of several.
    """
    lengths = np.diff(reader.document_offsets)
    size = reader.header.bin_bytes
    documents = format_number(reader.num_documents, "row" if has_examples else "document")
    yield f"{reader.prefix}"
    yield f"  {documents}, {format_number(reader.num_tokens, 'token')} ({format_count(reader.num_tokens)})"
    yield f"  {reader.dtype.name}, {format_bytes(size)} in the .bin"
    if len(lengths) and not has_examples:
        low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95])
        yield (
            f"  tokens per document: mean {lengths.mean():.0f}, 5% up to {low:.0f}, median {middle:.0f},"
            f" 95% up to {high:.0f}, longest {lengths.max()} (document {int(lengths.argmax())})"
        )
    if manifest is None:
        yield "  not verified: there is no manifest"
        return
    yield f"  written by {manifest.created_by or 'unknown'}; vocabulary {manifest.vocab_size or 'unknown'}"
    if manifest.tokenizer_sha256:
        yield f"  tokenizer sha256 {manifest.tokenizer_sha256}"
    yield f"  verified: sha256 of {', '.join(sorted(manifest.files))}"


def describe_document(
    reader: ShardReader, document: int, *, tokenizer: Tokenizer | None, num_characters: int | None
) -> Iterator[str]:
    """Describe a document: its origin and its text."""
    tokens = reader.document(document)
    yield f"document {document}: {format_number(len(tokens), 'token')}"
    table = open_documents(reader.prefix)
    if table is not None:
        origin = table.origin(document)
        yield f"  from  {origin.source}: {origin.file}, record {origin.record}" + (
            f", byte {origin.offset}" if origin.offset is not None else ""
        )
        for name in ("id", "url", "title"):
            if value := getattr(origin, name):
                yield f"  {name:<5} {value}"
        yield f"  hash  {origin.text_hash}"
        if origin.language:
            yield f"  in    {origin.language}"
    else:
        yield "  origin unknown: the shard has no document table"
    yield ""
    if tokenizer is None:
        yield " ".join(map(str, tokens[: num_characters or len(tokens)]))
        yield "(token ids: no tokenizer.model or tokenizer.json next to the shard; set --tokenizer)"
        return
    text = tokenizer.decode(tokens.tolist())
    if num_characters and len(text) > num_characters:
        yield text[:num_characters]
        yield f"... {format_number(len(text) - num_characters, 'more character')} (--full shows all)"
    else:
        yield text


def inspect(
    prefix: str,
    *,
    document: int | None,
    row: int | None = None,
    column: str | None,
    value: str,
    tokenizer_path: Path | None,
    num_characters: int | None,
) -> None:
    """Verify a shard and print the requested information.

    Args:
        document: number of the document to show, from 0.
        row: number of the row of examples to show, from 0, with inputs, targets, padding and borders of documents.
        column: url or title: show the document whose column has the value, and the outcome of other records with it.
    Raises:
        ConfigError: the shard is damaged, or the document does not exist.
    """
    prefix = prefix.removesuffix(".bin").removesuffix(".idx").removesuffix(MANIFEST_SUFFIX)
    raise_if_any(check_shard(prefix, verify="checksum"))
    reader, manifest = ShardReader(prefix), read_manifest(prefix)
    examples = read_examples(prefix)
    print("\n".join(describe_shard(reader, manifest, has_examples=examples is not None)))
    if examples is not None:
        print("\n".join(describe_examples(examples)))
    if row is not None:
        if examples is None:
            rule, fix = f"{prefix} holds plain text, no examples", "Use --doc with a document number."
            raise ConfigError([Violation(path="--example", value=row, message=rule, fix=fix)])
        if not 0 <= row < reader.num_documents:
            rule, fix = f"no such row in {prefix}", f"Use 0 to {reader.num_documents - 1}."
            raise ConfigError([Violation(path="--example", value=row, message=rule, fix=fix)])
        tokenizer = open_shard_tokenizer(reader, manifest, path=tokenizer_path)
        print()
        print("\n".join(describe_row(reader, row, record=examples, tokenizer=tokenizer, is_colored=may_color())))
    if document is not None and not 0 <= document < reader.num_documents:
        rule, fix = f"no such document in {prefix}", f"Use 0 to {reader.num_documents - 1}."
        raise ConfigError([Violation(path="--doc", value=document, message=rule, fix=fix)])
    if column is not None:
        records = _find_in_ledger(reader, column=column, value=value)
        found = _find(reader, column=column, value=value, is_needed=not records)
        document = found[0] if found else None
        if len(found) > 1:
            more = f" and {len(found) - MAX_FOUND} more" if len(found) > MAX_FOUND else ""
            print(f"{len(found)} documents with this {column}: {', '.join(map(str, found[:MAX_FOUND]))}{more}")
        if records:
            print("\n".join(describe_records(records, column=column, value=value)))
    if document is not None:
        tokenizer = open_shard_tokenizer(reader, manifest, path=tokenizer_path)
        print()
        print("\n".join(describe_document(reader, document, tokenizer=tokenizer, num_characters=num_characters)))


def describe_records(records: list[FoundRecord], *, column: str, value: str) -> Iterator[str]:
    """List the outcomes of the records with a URL or title."""
    yield f"{format_number(len(records), 'record')} read with {column} {value}:"
    for source, file, row in records[:MAX_FOUND]:
        what = f"kept: {row.fate}" if row.reason is None else f"{row.fate}: {row.reason}"
        yield f"  {what}{f' ({row.detail})' if row.detail else ''}; record {row.record} of {file} ({source})"
    if len(records) > MAX_FOUND:
        yield f"  and {len(records) - MAX_FOUND} more"


def _find_in_ledger(reader: ShardReader, *, column: str, value: str) -> list[FoundRecord]:
    """Find records of the shard's preparation; none without a table of records."""
    table = reader.prefix.parent / RECORD_TABLE_NAME
    return list(find_records(table, column=column, value=value)) if table.exists() else []


def _find(reader: ShardReader, *, column: str, value: str, is_needed: bool) -> list[int]:
    table = shard_file(reader.prefix, DOCUMENTS_SUFFIX)
    if not table.exists() and not is_needed:
        return []
    if not table.exists():
        rule, fix = f"cannot search: {table} does not exist", "Use --doc with a document number."
        raise ConfigError([Violation(path=f"--{column}", value=value, message=rule, fix=fix)])
    found = find_documents(table, column=column, value=value)
    if not found and is_needed:
        rule = f"no document of {reader.prefix} and no record read for it has this {column}"
        fix = "Search the other shards; the value must match exactly."
        raise ConfigError([Violation(path=f"--{column}", value=value, message=rule, fix=fix)])
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", metavar="PREFIX")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--doc", type=int, metavar="N", help="show document N, counted from 0")
    chosen.add_argument(
        "--example", type=int, metavar="N", help="show row N of a shard of examples: input, target, padding, borders"
    )
    chosen.add_argument("--url", help="show the document with this URL, or why it was dropped")
    chosen.add_argument("--title", help="show the document with this title, or why it was dropped")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer (default: tokenizer.model or tokenizer.json next to PREFIX)",
    )
    parser.add_argument("--full", action="store_true", help="show the whole text instead of the first 2000 characters")
    args = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly

    def body() -> int:
        column = "url" if args.url is not None else "title" if args.title is not None else None
        inspect(
            args.prefix,
            document=args.doc,
            row=args.example,
            column=column,
            value=args.url if args.url is not None else args.title or "",
            tokenizer_path=args.tokenizer,
            num_characters=None if args.full else 2000,
        )
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
