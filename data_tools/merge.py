"""Merge token shards into one without tokenizing again: trireme merge OUTPUT PREFIX [PREFIX ...]

The new shard contains the documents of all shards in the given order. All shards must have the same tokenizer.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_tools.output.tables import DocumentTableWriter
from data_tools.work.progress import Mode, StageProgress
from trireme.errors import EXIT_STOPPED, Violation, exit_code_of, raise_if_any
from trireme.progress import format_number
from trireme.shards.document_table import DOCUMENTS_SUFFIX, DocumentOrigin
from trireme.shards.manifest import MANIFEST_SUFFIX, ShardManifest, check_shard, read_manifest, write_manifest
from trireme.shards.shard import ShardReader, ShardWriter, shard_file

SUFFIXES = (".bin", ".idx", DOCUMENTS_SUFFIX, MANIFEST_SUFFIX)


def merge_shards(output: str, prefixes: list[str], *, overwrite: bool = False, mode: Mode = "off") -> ShardManifest:
    """Write the documents of several shards, with their origins, to one shard, whole or not at all.

    Args:
        output: prefix of the new shard.
        prefixes: of the shards to merge; all their files are verified first.
    Returns:
        The new shard's manifest. It has a document table only if every shard has one.
    Raises:
        ConfigError: a shard is damaged or has another tokenizer, or the output exists.
    """
    manifests = _check(output, prefixes, overwrite=overwrite)
    readers = [ShardReader(prefix) for prefix in prefixes]
    has_tables = all(DOCUMENTS_SUFFIX in manifest.files for manifest in manifests)
    partial_table = shard_file(output, f"{DOCUMENTS_SUFFIX}.partial")
    try:
        with (
            StageProgress(
                "merge", total=sum(r.num_documents for r in readers), unit="documents", mode=mode
            ) as progress,
            ShardWriter(output, dtype=readers[0].dtype) as writer,
        ):
            for reader in readers:
                _copy_documents(reader, writer, progress=progress)
            table = _merge_tables(readers, partial_table) if has_tables else {}
            # From here on an existing shard has no manifest and document table until the new one is complete.
            for suffix in (MANIFEST_SUFFIX, DOCUMENTS_SUFFIX):
                shard_file(output, suffix).unlink(missing_ok=True)
            files = writer.commit()
        if has_tables:
            os.replace(partial_table, shard_file(output, DOCUMENTS_SUFFIX))
            files[DOCUMENTS_SUFFIX] = table
    finally:
        partial_table.unlink(missing_ok=True)
    manifest = ShardManifest(
        num_documents=writer.num_documents,
        num_tokens=writer.num_tokens,
        dtype=writer.dtype.name,
        files=files,
        tokenizer_sha256=manifests[0].tokenizer_sha256,
        vocab_size=manifests[0].vocab_size,
        settings={"merged": [_describe(*pair) for pair in zip(prefixes, manifests, strict=True)]},
        created_by=f"data_tools.merge {metadata.version('trireme')}",
    )
    write_manifest(output, manifest)
    return manifest


def _copy_documents(reader: ShardReader, writer: ShardWriter, *, progress: StageProgress) -> None:
    offsets = reader.document_offsets
    for number in range(reader.num_documents):
        writer.add_document(reader.tokens[offsets[number] : offsets[number + 1]])
        if number % 1024 == 0:
            progress.update(writer.num_documents)
    progress.update(writer.num_documents)
    reader.release()


def _merge_tables(readers: list[ShardReader], path: Path) -> dict[str, Any]:
    writer = DocumentTableWriter(path)
    for reader in readers:
        file = pq.ParquetFile(shard_file(reader.prefix, DOCUMENTS_SUFFIX))
        for batch in file.iter_batches(columns=list(DocumentOrigin._fields)):
            for row in batch.to_pylist():
                writer.add(DocumentOrigin(**row))
    return writer.close()


def _describe(prefix: str, manifest: ShardManifest) -> dict[str, Any]:
    return {
        "prefix": prefix,
        "num_documents": manifest.num_documents,
        "num_tokens": manifest.num_tokens,
        "sha256": manifest.files[".bin"]["sha256"],
        "settings": manifest.settings,
    }


def _check(output: str, prefixes: list[str], *, overwrite: bool) -> list[ShardManifest]:
    """Check that the shards can be merged; return their manifests."""
    raise_if_any([*_check_output(output, prefixes, overwrite=overwrite), *_check_inputs(prefixes)])
    manifests = [manifest for prefix in prefixes if (manifest := read_manifest(prefix))]
    found = []
    for prefix, manifest in zip(prefixes, manifests, strict=True):
        for name in ("tokenizer_sha256", "vocab_size", "dtype"):
            expected, value = getattr(manifests[0], name), getattr(manifest, name)
            if value != expected:
                rule = f"must be {expected} as in {prefixes[0]}: all shards need the same tokenizer"
                fix = "Prepare the shard with the same data_prep.tokenizer.path."
                found.append(Violation(path=f"{name} of {prefix}", value=value, message=rule, fix=fix))
        table = shard_file(prefix, DOCUMENTS_SUFFIX)
        if DOCUMENTS_SUFFIX in manifest.files and pq.ParquetFile(table).metadata.num_rows != manifest.num_documents:
            rule = f"must have {format_number(manifest.num_documents, 'row')}, one per document"
            found.append(Violation(path=str(table), value="", message=rule, fix="Prepare the shard again."))
    raise_if_any(found)
    return manifests


def _check_inputs(prefixes: list[str]) -> Iterator[Violation]:
    for number, prefix in enumerate(prefixes):
        if prefix in prefixes[:number]:
            rule, fix = "listed twice, which would duplicate its documents", "List it once."
            yield Violation(path="PREFIX", value=prefix, message=rule, fix=fix)
            continue
        problems = check_shard(prefix, verify="checksum")
        yield from problems
        if not problems:
            manifest = read_manifest(prefix)
            if manifest is None or manifest.tokenizer_sha256 is None:
                rule = "has no manifest that names its tokenizer"
                fix = "merge shards that `trireme prepare` made"
                yield Violation(path="PREFIX", value=prefix, message=rule, fix=fix)


def _check_output(output: str, prefixes: list[str], *, overwrite: bool) -> Iterator[Violation]:
    places = {os.path.realpath(prefix): prefix for prefix in prefixes}
    if os.path.realpath(output) in places:
        yield Violation(
            path="OUTPUT", value=output, message="must not be one of the shards to merge", fix="Choose another name."
        )
        return
    taken = [str(file) for suffix in SUFFIXES if (file := shard_file(output, suffix)).exists()]
    if taken and not overwrite:
        fix = "Choose another name, or replace it with --overwrite."
        yield Violation(path="OUTPUT", value="", message=f"{taken[0]} already exists", fix=fix)
    if os.path.exists(os.path.join(os.path.dirname(output) or ".", "preparation.json")):
        rule = "must not be in the directory of a preparation, which a later run may replace"
        yield Violation(path="OUTPUT", value=output, message=rule, fix="Choose another directory.")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUTPUT", help="prefix of the new shard")
    parser.add_argument("prefixes", metavar="PREFIX", nargs="+", help="path of a shard, without .bin and .idx")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing shard")
    args = parser.parse_args()

    def body() -> int:
        try:
            manifest = merge_shards(args.output, args.prefixes, overwrite=args.overwrite, mode="auto")
        except OSError as error:
            print(f"Merge failed: {error.filename or args.output}: {error.strerror or error}", file=sys.stderr)
            return EXIT_STOPPED
        print(f"Merged {format_number(len(args.prefixes), 'shard')} into {args.output}")
        documents, tokens = (
            format_number(count, noun)
            for count, noun in ((manifest.num_documents, "document"), (manifest.num_tokens, "token"))
        )
        print(f"  {documents}, {tokens} of {manifest.dtype}")
        if DOCUMENTS_SUFFIX not in manifest.files:
            print("warning: not every shard has a document table, so the new one has none", file=sys.stderr)
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
