"""Everything that is wrong with the data sets of a run, found before anything starts."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.config.run import DataConfig, DatasetConfig
from trainer.data.token_dataset import OPENING_THREADS, check_window_count
from trireme.config.suggest import nearest_names
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.shards.manifest import MANIFEST_SUFFIX, check_shard, hash_file, read_manifest
from trireme.shards.shard import ShardReader, shard_file

TOKENS_PER_CHUNK = 8 << 20
SAMPLED_PIECES = 32
SAMPLED_PIECE_TOKENS = 8 << 10
"""A shard of at most 262,144 tokens is read whole; of a larger one, pieces spread evenly from its first token to its
last: 0.5 to 1 MiB in 32 reads, 10 ms cold on a local disk."""

TRAIN, VALIDATION = "train", "validation"
"""How a preparation names its shards."""

Verify = Literal["none", "size", "checksum", "full"]
"""How thoroughly to look: data.verify."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What checking one shard found."""

    violations: list[Violation]
    num_tokens: int
    """0 where the shard cannot be used."""
    has_manifest: bool
    content: frozenset[object] = frozenset()
    """What tells whether another shard holds the same: file, and sha256 where a manifest records it."""


@dataclass(frozen=True, kw_only=True)
class _Expectation:
    """What every shard is compared with."""

    verify: Verify
    tokenizer_path: str | None
    tokenizer_sha256: str | None
    vocab_size: int | None


def check_datasets(
    data: DataConfig, *, tokenizer_path: str | None, seq_length: int, vocab_size: int | None
) -> list[Violation]:
    """Find all problems of all shards of a run.

    Args:
        data: data sets, and how thoroughly to look (data.verify).
        tokenizer_path: model file whose sha256 the shards' manifests must name; None does not compare. A missing file
            is `Tokenizer`'s to report.
        seq_length: input tokens per window.
        vocab_size: smallest token id that the model does not have; None does not compare.
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
            "%s without a manifest (Megatron-LM writes none), so tokenizer and checksums are not compared%s: %s",
            format_number(len(without_manifest), "shard"),
            _describe_id_check(data.verify, vocab_size),
            ", ".join(without_manifest[:5]) + (", ..." if len(without_manifest) > 5 else ""),
        )
    _warn_of_shared_shards(places, reports)
    remaining = iter(reports)
    for name, datasets in groups:
        found += _check_sizes(name, datasets, remaining, seq_length)
    return found


def _warn_of_shared_shards(places: Sequence[tuple[str, str]], reports: Sequence[ShardReport]) -> None:
    """Say which shards are trained on and validated on, under the same name or as copies."""
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
                "%s=%s is trained on as well (%s=%s): the validation loss says little about other text",
                place,
                prefix,
                *shared,
            )


def _check_sizes(
    name: str, datasets: Sequence[DatasetConfig], reports: Iterator[ShardReport], seq_length: int
) -> list[Violation]:
    """Look for data sets without one whole window; those with an unusable shard are not counted."""
    found = []
    for d, dataset in enumerate(datasets):
        sizes = [next(reports).num_tokens for _ in dataset.paths]
        if sizes and all(sizes):
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
            message=f"is another tokenizer than tokenizer.path={expectation.tokenizer_path}, whose sha256 is "
            f"{expectation.tokenizer_sha256}",
            fix="name the tokenizer that made the shard, or make the shard again with this one",
        )
    ]


def _check_vocabulary(prefix: str, vocab_size: int | None, expectation: _Expectation) -> list[Violation]:
    if vocab_size is None or expectation.vocab_size is None or vocab_size <= expectation.vocab_size:
        return []
    return [
        Violation(
            path=str(shard_file(prefix, MANIFEST_SUFFIX)),
            value=f"vocab_size {vocab_size}",
            message=f"has token ids beyond the model's vocabulary of {expectation.vocab_size}",
            fix=f"set model.vocab_size to at least {vocab_size}, or null to take the tokenizer's",
        )
    ]


def _check_ids(reader: ShardReader, expectation: _Expectation, *, is_vouched_for: bool) -> list[Violation]:
    """Look for token ids that the model does not have.

    What a manifest vouches for is read by `full` only; the rest is sampled by `size` and read by `checksum` as well.
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
    """Name the first token, in pieces of a shard, that is not in the vocabulary."""
    for first in firsts:
        tokens = reader.tokens[first : first + size]
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocab_size:
            at = first + int(np.argmax((tokens < 0) | (tokens >= vocab_size)))
            rule = f"at token {at} is not in the model's vocabulary of {vocab_size}"
            fix = "train with the tokenizer that made the shard, or with a larger model.vocab_size"
            path = str(shard_file(reader.prefix, ".bin"))
            return [Violation(path=path, value=f"token id {reader.tokens[at]}", message=rule, fix=fix)]
    return []


def _missing_shard(place: str, prefix: str) -> Violation:
    """Explain a prefix that has neither file, with the nearest one that has."""
    rule = "names no shard: neither .bin nor .idx is there"
    path = Path(prefix)
    if any(character in prefix for character in "*?["):
        rule = "names no shard: patterns are not expanded"
        found = sorted(str(match.with_suffix("")) for match in path.parent.glob(f"{path.name}.idx"))
    elif prefix.endswith((".bin", ".idx")) and shard_file(prefix[:-4], ".idx").exists():
        rule, found = "is a file of a shard, not its prefix", [prefix[:-4]]
    elif path.is_dir():
        rule, found = "is a directory, not a shard prefix", _prefixes_in(path)
    else:
        here = {Path(name).name: name for name in _prefixes_in(path.parent)} if path.parent.is_dir() else {}
        found = [here[name] for name in nearest_names(path.name, here, count=3)] or list(here.values())
    if (
        place.startswith("data.validation")
        and path.name == VALIDATION
        and [Path(name).name for name in found] == [TRAIN]
    ):
        # What a short text gives; training's own shard would measure nothing.
        fix = (
            "the preparation held out no document: raise data_prep.split.validation_fraction, or use data.validation=[]"
        )
    elif found:
        fix = "use " + " or ".join(found[:3]) + (f" (or {len(found) - 3} more)" if len(found) > 3 else "")
    elif not path.parent.is_dir():
        fix = f"no such directory: {path.parent}; make the shard with `python -m data_tools.prepare`"
    else:
        fix = f"{path.parent} holds no shards; make one with `python -m data_tools.prepare`"
    return Violation(path=place, value=prefix, message=rule, fix=fix)


def _prefixes_in(directory: Path) -> list[str]:
    return sorted(str(file)[: -len(".idx")] for file in directory.glob("*.idx"))
