"""Check all shards of a run before anything starts: files, manifests, tokenizer and token ids."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.config.run import DataConfig, DatasetConfig
from trainer.data.example_checks import check_examples
from trainer.data.token_dataset import OPENING_THREADS, check_window_count
from trireme.config.suggest import nearest_names
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.shards.examples import Task
from trireme.shards.manifest import MANIFEST_SUFFIX, check_shard, hash_file, read_manifest
from trireme.shards.shard import ShardReader, shard_file

TOKENS_PER_CHUNK = 8 << 20
SAMPLED_PIECES = 32
SAMPLED_PIECE_TOKENS = 8 << 10
"""A shard of at most 262,144 tokens is read completely; of a larger one, pieces spread evenly from its first token to
its last: 0.5 to 1 MiB in 32 reads, 10 ms cold on a local disk."""

TRAIN, VALIDATION = "train", "validation"
"""Names of the shards of a data preparation."""

Verify = Literal["none", "size", "checksum", "full"]
"""Thoroughness of the checks: data.verify."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """Hold the result of checking one shard."""

    violations: list[Violation]
    num_tokens: int
    """0 if the shard cannot be used."""
    has_manifest: bool
    content: frozenset[object] = frozenset()
    """Identifies equal shards: the file, and the sha256 if a manifest records it."""


@dataclass(frozen=True, kw_only=True)
class _Expectation:
    """Hold what every shard is compared with."""

    verify: Verify
    tokenizer_path: str | None
    tokenizer_sha256: str | None
    vocab_size: int | None


def check_datasets(
    data: DataConfig,
    *,
    tokenizer_path: str | None,
    seq_length: int,
    vocab_size: int | None,
    task: Task | None = None,
) -> list[Violation]:
    """Find all errors of all shards of a run.

    Args:
        data: data sets, and the thoroughness of the checks (data.verify).
        tokenizer_path: model file whose sha256 the shards' manifests must name; None does not compare. `Tokenizer`
            reports a missing file.
        seq_length: input tokens per window.
        vocab_size: number of token ids of the model; None does not compare.
        task: the shards hold examples of this task; None takes shards of text.
    """
    path = tokenizer_path if tokenizer_path and Path(tokenizer_path).is_file() else None
    expectation = _Expectation(
        verify=data.verify,
        tokenizer_path=path,
        tokenizer_sha256=hash_file(path) if path else None,
        vocab_size=vocab_size,
    )
    groups = [("data.train", data.train), ("data.validation", data.validation)]
    places = [
        (f"{name}[{d}].paths[{p}]", prefix)
        for name, datasets in groups
        for d, dataset in enumerate(datasets)
        for p, prefix in enumerate(dataset.paths)
    ]
    with ThreadPoolExecutor(max_workers=OPENING_THREADS) as pool:
        reports = list(pool.map(lambda place: _check_prefix(place[0], place[1], expectation), places))
    found = [violation for report in reports for violation in report.violations]
    without_manifest = [
        prefix
        for (_, prefix), report in zip(places, reports, strict=True)
        if report.num_tokens and not report.has_manifest
    ]
    if without_manifest:
        logger.info(
            "Found %s without a manifest (Megatron-LM writes none): tokenizer and checksums are not compared%s: %s",
            format_number(len(without_manifest), "shard"),
            _describe_id_check(data.verify, vocab_size),
            ", ".join(without_manifest[:5]) + (", ..." if len(without_manifest) > 5 else ""),
        )
    _warn_of_shared_shards(places, reports)
    remaining = iter(reports)
    for name, datasets in groups:
        found += _check_sizes(name, datasets, remaining, seq_length=seq_length, are_rows=task is not None)
    has_files = {prefix for (_, prefix), report in zip(places, reports, strict=True) if report.num_tokens}
    return found + check_examples(
        [(place, prefix) for place, prefix in places if prefix in has_files], task=task, seq_length=seq_length
    )


def _warn_of_shared_shards(places: Sequence[tuple[str, str]], reports: Sequence[ShardReport]) -> None:
    """Warn of shards that are used for both training and validation, under the same name or as copies."""
    trained = {
        mark: (place, prefix)
        for (place, prefix), report in zip(places, reports, strict=True)
        if place.startswith("data.train")
        for mark in report.content
    }
    for (place, prefix), report in zip(places, reports, strict=True):
        shared = next((trained[mark] for mark in report.content if mark in trained), None)
        if place.startswith("data.validation") and shared is not None:
            logger.warning(
                "%s=%s is also used for training (%s=%s): the validation loss says little about unseen text.",
                place,
                prefix,
                *shared,
            )


def _check_sizes(
    name: str, datasets: Sequence[DatasetConfig], reports: Iterator[ShardReport], *, seq_length: int, are_rows: bool
) -> list[Violation]:
    """Find data sets that are shorter than one window; those with an unusable shard are not counted."""
    found = []
    for d, dataset in enumerate(datasets):
        sizes = [next(reports).num_tokens for _ in dataset.paths]
        if sizes and all(sizes) and not are_rows:
            found += check_window_count(sum(sizes), seq_length=seq_length, path=f"{name}[{d}]")
    return found


def _check_prefix(place: str, prefix: str, expectation: _Expectation) -> ShardReport:
    if not any(shard_file(prefix, suffix).exists() for suffix in (".idx", ".bin")):
        return ShardReport(violations=[_missing_shard(place, prefix)], num_tokens=0, has_manifest=False)
    found = check_shard(prefix, verify=expectation.verify)
    if found:
        return ShardReport(violations=found, num_tokens=0, has_manifest=False)
    try:
        manifest = read_manifest(prefix)
    except ConfigError as error:
        return ShardReport(violations=list(error.violations), num_tokens=0, has_manifest=False)
    reader = ShardReader(prefix)
    if manifest:
        made_by, vocab_size = manifest.tokenizer_sha256, manifest.vocab_size
        found = _check_tokenizer(prefix, made_by, expectation) + _check_vocabulary(prefix, vocab_size, expectation)
    if not found:
        found = _check_ids(reader, expectation, is_vouched_for=manifest is not None and manifest.vocab_size is not None)
    status = shard_file(prefix, ".bin").stat()
    recorded = manifest.tokens_sha256 if manifest else None
    return ShardReport(
        violations=found,
        num_tokens=reader.num_tokens,
        has_manifest=manifest is not None,
        content=frozenset({(status.st_dev, status.st_ino), recorded} - {None}),
    )


def _describe_id_check(verify: Verify, vocab_size: int | None) -> str:
    if verify != "size" or vocab_size is None:
        return ""
    return ", and token ids are sampled (data.verify=full reads them all)"


def _check_tokenizer(prefix: str, made_by: str | None, expectation: _Expectation) -> list[Violation]:
    if made_by is None or expectation.tokenizer_sha256 in (None, made_by):
        return []
    return [
        Violation(
            path=str(shard_file(prefix, MANIFEST_SUFFIX)),
            value=f"tokenizer_sha256 {made_by}",
            message=f"names another tokenizer than tokenizer.path={expectation.tokenizer_path}, whose sha256 is "
            f"{expectation.tokenizer_sha256}",
            fix="Set tokenizer.path to the tokenizer of the shard, or prepare the shard again with this one.",
        )
    ]


def _check_vocabulary(prefix: str, vocab_size: int | None, expectation: _Expectation) -> list[Violation]:
    if vocab_size is None or expectation.vocab_size is None or vocab_size <= expectation.vocab_size:
        return []
    return [
        Violation(
            path=str(shard_file(prefix, MANIFEST_SUFFIX)),
            value=f"vocab_size {vocab_size}",
            message=f"exceeds the model's vocabulary of {expectation.vocab_size} tokens",
            fix=f"Set model.vocab_size to at least {vocab_size}, or to null to use the tokenizer's.",
        )
    ]


def _check_ids(reader: ShardReader, expectation: _Expectation, *, is_vouched_for: bool) -> list[Violation]:
    """Find token ids that the model does not have.

    Shards with a vocabulary size in their manifest are read with `full` only; others are sampled with `size` and read
    completely with `checksum` too.
    """
    verify, vocab_size = expectation.verify, expectation.vocab_size
    if vocab_size is None or verify == "none" or (is_vouched_for and verify != "full"):
        return []
    size = TOKENS_PER_CHUNK
    firsts: Sequence[int] = range(0, reader.num_tokens, size)
    if verify == "size" and reader.num_tokens > SAMPLED_PIECES * SAMPLED_PIECE_TOKENS:
        size = SAMPLED_PIECE_TOKENS
        firsts = np.linspace(0, reader.num_tokens - size, SAMPLED_PIECES, dtype=np.int64).tolist()
    return _find_bad_id(reader, vocab_size=vocab_size, firsts=firsts, size=size)


def _find_bad_id(reader: ShardReader, *, vocab_size: int, firsts: Iterable[int], size: int) -> list[Violation]:
    """Report the first token, in pieces of a shard, that is not in the vocabulary."""
    for first in firsts:
        tokens = reader.tokens[first : first + size]
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocab_size:
            at = first + int(np.argmax((tokens < 0) | (tokens >= vocab_size)))
            message = f"token {at} is outside of the model's vocabulary of {vocab_size}"
            fix = "Use the tokenizer of the shard, or a larger model.vocab_size."
            path = str(shard_file(reader.prefix, ".bin"))
            return [Violation(path=path, value=f"token id {reader.tokens[at]}", message=message, fix=fix)]
    return []


def _missing_shard(place: str, prefix: str) -> Violation:
    """Report a prefix without files, with the nearest existing ones."""
    rule = "no such shard: neither its .bin nor its .idx file exists"
    path = Path(prefix)
    if any(character in prefix for character in "*?["):
        rule = "no such shard: patterns are not expanded"
        found = sorted(str(match.with_suffix("")) for match in path.parent.glob(f"{path.name}.idx"))
    elif prefix.endswith((".bin", ".idx")) and shard_file(prefix[:-4], ".idx").exists():
        rule, found = "must be the prefix of a shard, not one of its files", [prefix[:-4]]
    elif path.is_dir():
        rule, found = "must be the prefix of a shard, not a directory", _prefixes_in(path)
    else:
        here = {Path(name).name: name for name in _prefixes_in(path.parent)} if path.parent.is_dir() else {}
        found = [here[name] for name in nearest_names(path.name, here, count=3)] or list(here.values())
    if (
        place.startswith("data.validation")
        and path.name == VALIDATION
        and [Path(name).name for name in found] == [TRAIN]
    ):
        # Happens with a short text; the training shard would be a meaningless validation set.
        fix = (
            "The data preparation held out no document for validation: raise data_prep.split.validation_fraction, or"
            " set data.validation=[]."
        )
    elif found:
        more = f" (or {len(found) - 3} more)" if len(found) > 3 else ""
        fix = f"Use {' or '.join(found[:3])}{more}."
    elif not path.parent.is_dir():
        fix = f"There is no directory {path.parent}. Create the shard with `trireme prepare`."
    else:
        fix = f"{path.parent} contains no shards. Create one with `trireme prepare`."
    return Violation(path=place, value=prefix, message=rule, fix=fix)


def _prefixes_in(directory: Path) -> list[str]:
    return sorted(str(file)[: -len(".idx")] for file in directory.glob("*.idx"))
