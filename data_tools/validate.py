"""Every rule of a data preparation's settings, all at once."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_tools.config import DataPrepConfig, SourceConfig
from data_tools.validate_quality import QUALITY_RANGES, validate_quality
from trainer.common.errors import ConfigError, Violation
from trainer.config.number_range import Range, find_out_of_range
from trainer.config.suggest import either, nearest_multiples
from trainer.data.tokenizer import Tokenizer

BYTE_PIECES = 256
CONTROL_PIECES = 3
"""Unknown, begin and end of a document."""
MIN_VOCAB_SIZE = BYTE_PIECES + CONTROL_PIECES + 1

_COUNT = Range(minimum=1)

RANGES: dict[str, Range] = {
    "cleaning.min_characters": Range(minimum=0),
    "cleaning.max_characters": _COUNT,
    "cleaning.max_replacement_share": Range(minimum=0, maximum=1),
    "cleaning.max_record_bytes": _COUNT,
    "near_duplicates.num_bands": Range(minimum=1, maximum=256),
    "near_duplicates.num_rows": Range(minimum=1, maximum=64),
    "near_duplicates.ngram_words": Range(minimum=1, maximum=1000),
    "near_duplicates.ngram_characters": Range(minimum=1, maximum=1000),
    "decontamination.ngram_words": Range(minimum=1, maximum=1000),
    "decontamination.ngram_characters": Range(minimum=1, maximum=1000),
    "decontamination.min_ngrams": _COUNT,
    "split.validation_fraction": Range(minimum=0, maximum=1, is_maximum_excluded=True),
    "split.seed": Range(minimum=0, maximum=2**63 - 1),
    "tokenizer.vocab_size": Range(minimum=MIN_VOCAB_SIZE, reason="256 bytes, unknown, begin and end take their share"),
    "tokenizer.vocab_multiple": _COUNT,
    "tokenizer.character_coverage": Range(minimum=0.9, maximum=1.0),
    "tokenizer.sample_characters": Range(minimum=1000),
    "tokenizer.num_threads": Range(minimum=1, maximum=1024),
    "batch_bytes": _COUNT,
    "num_workers": _COUNT,
    **QUALITY_RANGES,
}
"""Every number of the schema, by its path below data_prep."""

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def validate(config: DataPrepConfig) -> list[Violation]:
    """Check all rules; the input files are looked for by `resolve_inputs`."""
    found = list(find_out_of_range(config, RANGES))
    bad = {violation.path for violation in found}
    checks = (
        _vocab_is_a_multiple,
        _special_tokens_are_distinct,
        _given_tokenizer_is_usable,
        _lengths_leave_room,
        _extractor_is_there,
        validate_quality,
        _sources,
        _evaluations,
        _output_dir,
    )
    for check in checks:
        found += [violation for violation in check(config) if violation.path not in bad]
    return [
        Violation(path=f"data_prep.{violation.path}", value=violation.value, rule=violation.rule, fix=violation.fix)
        for violation in found
    ]


def _vocab_is_a_multiple(config: DataPrepConfig) -> Iterator[Violation]:
    size, multiple = config.tokenizer.vocab_size, config.tokenizer.vocab_multiple
    if config.tokenizer.path is None and multiple > 0 and size % multiple:
        choices = [value for value in nearest_multiples(size, multiple) if value >= MIN_VOCAB_SIZE]
        yield Violation(
            path="tokenizer.vocab_size",
            value=size,
            rule=f"is no multiple of data_prep.tokenizer.vocab_multiple={multiple}",
            fix=f"use {either(choices)}",
        )


def _special_tokens_are_distinct(config: DataPrepConfig) -> Iterator[Violation]:
    tokens = config.tokenizer.special_tokens
    if config.tokenizer.path is not None and tokens:
        yield Violation(
            path="tokenizer.special_tokens",
            value=tokens,
            rule="can only be added to a tokenizer that is trained here",
            fix="leave data_prep.tokenizer.path or the special tokens out",
        )
    for token, count in Counter(tokens).items():
        if count > 1:
            yield _special(token, "is named more than once", "name it once")
        if not token.strip() or token in ("<unk>", "<s>", "</s>") or re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            yield _special(repr(token), "cannot be a special token", "choose another spelling")
    room = config.tokenizer.vocab_size - MIN_VOCAB_SIZE
    if config.tokenizer.path is None and 0 <= room < len(tokens):
        yield _special(f"{len(tokens)} tokens", f"are more than the vocabulary has room for ({room})", "leave some out")


def _special(value: str, rule: str, fix: str) -> Violation:
    return Violation(path="tokenizer.special_tokens", value=value, rule=rule, fix=fix)


def _given_tokenizer_is_usable(config: DataPrepConfig) -> Iterator[Violation]:
    path = config.tokenizer.path
    if path is None:
        return
    try:
        tokenizer = Tokenizer(path)
    except ConfigError as error:
        yield from error.violations
        return
    if tokenizer.eos_id is None:
        rule = "has no end-of-document piece (</s>), and documents are ended with one"
        yield Violation(path="tokenizer.path", value=path, rule=rule, fix="take another, or train one")


def _lengths_leave_room(config: DataPrepConfig) -> Iterator[Violation]:
    cleaning = config.cleaning
    if cleaning.min_characters > cleaning.max_characters:
        yield Violation(
            path="cleaning.min_characters",
            value=cleaning.min_characters,
            rule=f"is more than data_prep.cleaning.max_characters={cleaning.max_characters}, so nothing is kept",
            fix=f"use {cleaning.max_characters} or less",
        )


def _extractor_is_there(config: DataPrepConfig) -> Iterator[Violation]:
    if config.html.extractor != "trafilatura":
        return
    if importlib.util.find_spec("trafilatura") is None:
        fix = "install it (pip install 'trireme[trafilatura]'), or use resiliparse"
        yield Violation(path="html.extractor", value="trafilatura", rule="is not installed", fix=fix)
    if not config.html.main_content:
        rule, fix = "is not for trafilatura, which takes main content only", "use true, or html.extractor=resiliparse"
        yield Violation(path="html.main_content", value=False, rule=rule, fix=fix)


def _sources(config: DataPrepConfig) -> Iterator[Violation]:
    if not config.sources:
        yield Violation(
            path="sources",
            value="[]",
            rule="names no input",
            fix="name files: 'data_prep.sources=[{name:mine,kind:text,paths:[\"/data/*.txt\"]}]', or choose an option"
            " such as data_prep=wikipedia",
        )
    yield from _source_names("sources", config.sources)


def _evaluations(config: DataPrepConfig) -> Iterator[Violation]:
    yield from _source_names("evaluations", config.evaluations)
    for number, source in enumerate(config.evaluations):
        if source.kind not in ("jsonl", "text"):
            path, rule = f"evaluations[{number}].kind", "is no kind of evaluation texts"
            yield Violation(path=path, value=source.kind, rule=rule, fix="use jsonl or text")


def _source_names(name: str, sources: list[SourceConfig]) -> Iterator[Violation]:
    counts = Counter(source.name for source in sources)
    for number, source in enumerate(sources):
        path = f"{name}[{number}].name"
        if not _SOURCE_NAME.fullmatch(source.name):
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-._") or f"source{number}"
            rule = "is no plain name (letters, digits, '.', '_' and '-'; a letter or digit first)"
            yield Violation(path=path, value=repr(source.name), rule=rule, fix=f"use {plain}")
        elif counts[source.name] > 1:
            fix = "give each source its own name, or list all files in one source's paths"
            yield Violation(path=path, value=source.name, rule="names more than one source", fix=fix)


def _output_dir(config: DataPrepConfig) -> Iterator[Violation]:
    directory = Path(config.output_dir)
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not config.output_dir:
        rule = "is empty"
    elif not existing.is_dir():
        rule = f"cannot be a directory: {existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        rule = f"cannot be written: you may not write to {existing}"
    else:
        return
    yield Violation(path="output_dir", value=config.output_dir, rule=rule, fix="name a directory that you can write to")
