"""Every rule of a data preparation's settings, all at once."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_tools.config import DataPrepConfig, SourceConfig
from data_tools.validate_quality import QUALITY_RANGES, validate_quality
from data_tools.validate_tokenizer import TOKENIZER_RANGES, validate_tokenizer
from trireme.config.ranges import Range, find_out_of_range
from trireme.config.script_values import check_lines, check_options
from trireme.errors import Violation
from trireme.files import nearest_existing
from trireme.slurm import is_one_line

_COUNT = Range(minimum=1)

RANGES: dict[str, Range] = {
    "cleaning.min_characters": Range(minimum=0),
    "cleaning.max_characters": _COUNT,
    "cleaning.max_replacement_share": Range(minimum=0, maximum=1),
    "cleaning.max_record_bytes": _COUNT,
    "cleaning.max_record_seconds": Range(minimum=0, is_minimum_excluded=True),
    "near_duplicates.num_bands": Range(minimum=1, maximum=256),
    "near_duplicates.num_rows": Range(minimum=1, maximum=64),
    "near_duplicates.ngram_words": Range(minimum=1, maximum=1000),
    "near_duplicates.ngram_characters": Range(minimum=1, maximum=1000),
    "decontamination.ngram_words": Range(minimum=1, maximum=1000),
    "decontamination.ngram_characters": Range(minimum=1, maximum=1000),
    "decontamination.min_ngrams": _COUNT,
    "split.validation_fraction": Range(minimum=0, maximum=1, is_maximum_excluded=True),
    "split.seed": Range(minimum=0, maximum=2**63 - 1),
    **TOKENIZER_RANGES,
    "batch_bytes": _COUNT,
    "num_workers": _COUNT,
    **QUALITY_RANGES,
}
"""Every number of the schema, by its path below data_prep."""

_SBATCH_FIELDS = {
    "account": "data_prep.executor.slurm.account",
    "cpus-per-task": "data_prep.executor.slurm.cpus_per_task",
    "mem": "data_prep.executor.slurm.memory",
    "partition": "data_prep.executor.slurm.partition",
    "qos": "data_prep.executor.slurm.qos",
    "time": "data_prep.executor.slurm.time_limit",
}
"""Options of sbatch that have a field of their own."""
_SBATCH_OWN = ("array", "dependency", "job-name", "nodes", "ntasks", "open-mode", "output", "requeue", "no-requeue")
"""Options of sbatch that the script decides on."""
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def validate(config: DataPrepConfig) -> list[Violation]:
    """Check all rules; the input files are looked for by `resolve_inputs`."""
    found = list(find_out_of_range(config, RANGES))
    bad = {violation.path for violation in found}
    checks = (
        validate_tokenizer,
        _lengths_leave_room,
        _extractor_is_there,
        validate_quality,
        _sources,
        _evaluations,
        _output_dir,
        _slurm_jobs,
    )
    for check in checks:
        found += [violation for violation in check(config) if violation.path not in bad]
    return [
        Violation(path=f"data_prep.{violation.path}", value=violation.value, rule=violation.rule, fix=violation.fix)
        for violation in found
    ]


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
        if source.kind not in ("jsonl", "parquet", "text"):
            path, rule = f"evaluations[{number}].kind", "is no kind of evaluation texts"
            yield Violation(path=path, value=source.kind, rule=rule, fix="use jsonl, parquet or text")


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
        if source.keep_whitespace is not None and source.kind in ("warc", "wikipedia"):
            rule, fix = f"is not for kind {source.kind}, whose text is made of mark-up", "leave it out"
            path = f"{name}[{number}].keep_whitespace"
            yield Violation(path=path, value=source.keep_whitespace, rule=rule, fix=fix)
        for field, value in (("max_retries", source.max_retries), ("retry_seconds", source.retry_seconds)):
            if value < 0:
                path = f"{name}[{number}].{field}"
                yield Violation(path=path, value=value, rule="is below 0", fix="use 0 or more")


def _output_dir(config: DataPrepConfig) -> Iterator[Violation]:
    directory = Path(config.output_dir)
    existing = nearest_existing(directory)
    if not existing.is_dir():
        rule = f"cannot be a directory: {existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        rule = f"cannot be written: you may not write to {existing}"
    else:
        return
    yield Violation(path="output_dir", value=config.output_dir, rule=rule, fix="name a directory that you can write to")


def _slurm_jobs(config: DataPrepConfig) -> Iterator[Violation]:
    """What cannot stand in the scripts of the executor slurm."""
    settings, path = config.executor.slurm, "executor.slurm"
    if config.executor.kind != "slurm":
        return
    names = ("partition", "account", "qos", "memory", "time_limit", "python")
    yield from check_lines(path, {name: getattr(settings, name) for name in names})
    yield from check_options(f"{path}.options", settings.options, fields=_SBATCH_FIELDS, own=_SBATCH_OWN)
    output = str(Path(config.output_dir).absolute())
    if "\\" in output or not is_one_line(output):
        rule = "holds a backslash or several lines, which sbatch cannot take for the place of its output"
        yield Violation(path="output_dir", value=repr(output), rule=rule, fix="use another directory")
