"""Export a shard to another format: trireme export-shard PREFIX OUTPUT --format datatrove

datatrove: OUTPUT.ds, OUTPUT.ds.index and OUTPUT.ds.metadata, as written by its DocumentTokenizer; nanotron reads them
too. (Megatron-LM and Megatron-Core need no export: they read PREFIX.bin and PREFIX.idx.)
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_tools.work.progress import Mode, StageProgress
from trireme.errors import EXIT_STOPPED, Violation, exit_code_of, raise_if_any
from trireme.files import sync_directory
from trireme.progress import format_number
from trireme.shards.manifest import check_shard, read_manifest
from trireme.shards.shard import ShardReader, shard_file

SUFFIX = ".ds"
PARTS = ("", ".index", ".metadata")
"""Suffixes after OUTPUT.ds; the last file marks the export as complete."""
CHUNK_ENTRIES = 1 << 20
"""Tokens, or documents, copied at a time."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """The exported file."""

    path: Path
    num_documents: int
    num_tokens: int
    token_bytes: int
    """2 or 4: token_size of datatrove's data sets."""


def export_datatrove(
    prefix: str, output: str, *, tokenizer: str | None = None, overwrite: bool = False, mode: Mode = "off"
) -> ExportedFile:
    """Write a shard as a file for datatrove's datasets and nanotron, whole or not at all.

    Memory does not grow with the shard. The files are: all tokens, as uint16 or uint32 without a header; the ends of
    all documents, in tokens, as uint64; three lines (tokenizer and bytes of a token, tokens, tokens for people).

    Args:
        prefix: path of the shard without .bin and .idx; it is verified first.
        output: path of the new file, with or without .ds.
        tokenizer: its name in the metadata; None uses the hash in the shard's manifest.
    Raises:
        ConfigError: the shard is damaged, or the output exists.
    Source: datatrove.pipeline.tokens.tokenizer.TokenizedFile and datatrove.utils.dataset, 0.10.1
    """
    path = shard_file(output.removesuffix(SUFFIX), SUFFIX)
    raise_if_any([*_check_output(path, overwrite=overwrite), *check_shard(prefix, verify="checksum")])
    reader, manifest = ShardReader(prefix), read_manifest(prefix)
    # Megatron's int32 has no negative ids, so its bytes are those of uint32.
    dtype = np.dtype("<u2") if reader.dtype.itemsize <= 2 else np.dtype("<u4")
    hashed = manifest.tokenizer_sha256 if manifest else None
    name = tokenizer or (f"sha256:{hashed}" if hashed else "Unknown Tokenizer")
    path.parent.mkdir(parents=True, exist_ok=True)
    partials = [shard_file(path, f"{part}.partial") for part in PARTS]
    try:
        with StageProgress("export", total=reader.num_tokens, unit="tokens", mode=mode) as progress:
            with open(partials[0], "wb") as stream:
                for chunk in _copy_tokens(reader, dtype):
                    _write(stream, chunk)
                    progress.update(stream.tell() // dtype.itemsize)
                _sync(stream)
            with open(partials[1], "wb") as stream:
                for chunk in _list_document_ends(reader):
                    _write(stream, chunk)
                _sync(stream)
            with open(partials[2], "wb") as stream:
                lines = (f"{name}|{dtype.itemsize}", str(reader.num_tokens), _abbreviate(reader.num_tokens))
                stream.write("\n".join(lines).encode())
                _sync(stream)
        # Without its metadata an existing file counts as incomplete until the new one is complete.
        shard_file(path, PARTS[-1]).unlink(missing_ok=True)
        for partial, part in zip(partials, PARTS, strict=True):
            os.replace(partial, shard_file(path, part))
        sync_directory(path.parent)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return ExportedFile(
        path=path, num_documents=reader.num_documents, num_tokens=reader.num_tokens, token_bytes=dtype.itemsize
    )


def _copy_tokens(reader: ShardReader, dtype: np.dtype) -> Iterator[np.ndarray]:
    for start in range(0, reader.num_tokens, CHUNK_ENTRIES):
        chunk = reader.tokens[start : start + CHUNK_ENTRIES]
        if chunk.min() < 0:
            place = start + int(np.argmin(chunk))
            rule, fix = "must not be negative", "Prepare the shard again."
            raise_if_any(
                [Violation(path=f"token {place} of {reader.prefix}", value=chunk.min(), message=rule, fix=fix)]
            )
        yield chunk.astype(dtype, copy=False)
        # A new mapping, since the pages of the old one would count as memory of this process until the end.
        reader.release()


def _list_document_ends(reader: ShardReader) -> Iterator[np.ndarray]:
    """[at most CHUNK_ENTRIES] uint64: tokens up to the end of each document."""
    for start in range(0, reader.num_documents, CHUNK_ENTRIES):
        following = reader.document_indices[start + 1 : min(start + CHUNK_ENTRIES, reader.num_documents) + 1]
        is_end = following == reader.header.num_sequences
        starts = reader.sequence_pointers[np.where(is_end, 0, following)] // reader.dtype.itemsize
        yield np.where(is_end, reader.num_tokens, starts).astype("<u8")
        reader.release()


def _write(stream: BinaryIO, values: np.ndarray) -> None:
    stream.write(np.ascontiguousarray(values).data)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _abbreviate(count: int) -> str:
    """Format a number with three digits, such as 1.23 MT, as datatrove does."""
    power = 0
    value = float(count)
    while value >= 999.5 and power < 4:
        value /= 1000
        power += 1
    digits = 2 - sum(value >= limit for limit in (9.995, 99.95))
    return f"{value:.{digits}f} {' kMGT'[power].strip()}T"


def _check_output(path: Path, *, overwrite: bool) -> Iterator[Violation]:
    taken = [file for part in PARTS if (file := shard_file(path, part)).exists()]
    if taken and not overwrite:
        fix = "Choose another name, or replace it with --overwrite."
        yield Violation(path="OUTPUT", value="", message=f"{taken[0]} already exists", fix=fix)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme export-shard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prefix", metavar="PREFIX", help="path of a shard, without .bin and .idx")
    parser.add_argument("output", metavar="OUTPUT", help="path of the new file, without .ds")
    parser.add_argument("--format", choices=["datatrove"], required=True, help="target format")
    parser.add_argument("--tokenizer", metavar="NAME", help="the tokenizer's name in the metadata (default: its hash)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args()

    def body() -> int:
        try:
            written = export_datatrove(
                args.prefix, args.output, tokenizer=args.tokenizer, overwrite=args.overwrite, mode="auto"
            )
        except OSError as error:
            print(f"Export failed: {error.filename or args.output}: {error.strerror or error}", file=sys.stderr)
            return EXIT_STOPPED
        print(f"Exported {args.prefix} to {written.path}")
        documents = format_number(written.num_documents, "document")
        tokens = format_number(written.num_tokens, "token")
        print(f"  {documents}, {tokens} of {format_number(written.token_bytes, 'byte')} each")
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
