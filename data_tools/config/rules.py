"""The rules of a preparation's settings, checked all at once."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.config.filtering import TARGET_KEY, QualityConfig, QualityThresholds
from data_tools.config.rules_tokenizer import TOKENIZER_RANGES, validate_tokenizer
from data_tools.config.schema import DataPrepConfig, SourceConfig
from trireme.config.convert import to_dataclass
from trireme.config.ranges import Range, find_out_of_range
from trireme.config.script_values import check_lines, check_options
from trireme.errors import Violation
from trireme.files import nearest_existing_parent
from trireme.slurm import is_one_line

_SHARE = Range(minimum=0, maximum=1)
_NOT_NEGATIVE = Range(minimum=0)
_LIMITS = {
    "characters_per_word": _NOT_NEGATIVE,
    "min_stop_words": _NOT_NEGATIVE,
    "min_words": _NOT_NEGATIVE,
    "max_words": _NOT_NEGATIVE,
    "min_mean_word_length": _NOT_NEGATIVE,
    "max_mean_word_length": _NOT_NEGATIVE,
    "max_symbol_ratio": _NOT_NEGATIVE,
    "max_bullet_line_share": _SHARE,
    "max_ellipsis_line_share": _SHARE,
    "min_alphabetic_share": _SHARE,
    "min_alphabetic_run_share": _SHARE,
    "max_duplicate_line_share": _SHARE,
    "max_duplicate_line_character_share": _SHARE,
    "max_duplicate_paragraph_share": _SHARE,
    "max_duplicate_paragraph_character_share": _SHARE,
    "min_sentences": _NOT_NEGATIVE,
    "max_word_length": _NOT_NEGATIVE,
    "min_end_punctuation_share": _SHARE,
    "short_line_characters": _NOT_NEGATIVE,
    "max_short_line_share": _SHARE,
    "max_repeated_line_character_share": _SHARE,
    "max_newline_ratio": _NOT_NEGATIVE,
}
_SHARES_OF_NGRAMS = {"max_top_ngram_shares": 3, "max_duplicate_ngram_shares": 6}
"""Lists of thresholds -> their length."""
QUALITY_RANGES: dict[str, Range] = {
    "language.min_score": _SHARE,
    "language.num_characters": Range(minimum=1),
    "lines.min_words": _NOT_NEGATIVE,
    "lines.min_repeated_characters": _NOT_NEGATIVE,
    **{f"quality.thresholds.{name}": allowed for name, allowed in _LIMITS.items()},
}
"""Ranges of these settings, by path below data_prep."""

_LANGUAGE = re.compile(r"[a-z]{2,3}")

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
"""Ranges of all numbers of the schema, by path below data_prep."""

_SBATCH_FIELDS = {
    "account": "data_prep.executor.slurm.account",
    "cpus-per-task": "data_prep.executor.slurm.cpus_per_task",
    "mem": "data_prep.executor.slurm.memory",
    "partition": "data_prep.executor.slurm.partition",
    "qos": "data_prep.executor.slurm.qos",
    "time": "data_prep.executor.slurm.time_limit",
}
"""Options of sbatch that have a setting of their own."""
_SBATCH_OWN = ("array", "dependency", "job-name", "nodes", "ntasks", "open-mode", "output", "requeue", "no-requeue")
"""Options of sbatch that the script sets itself."""
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def validate(config: DataPrepConfig) -> list[Violation]:
    """Check all rules but those of input files, which `resolve_inputs` checks."""
    found = list(find_out_of_range(config, RANGES))
    bad = {violation.path for violation in found}
    checks = (
        validate_tokenizer,
        _lengths,
        _extractor,
        validate_quality,
        _sources,
        _evaluations,
        _output_dir,
        _slurm_jobs,
    )
    for check in checks:
        found += [violation for violation in check(config) if violation.path not in bad]
    return [
        Violation(
            path=f"data_prep.{violation.path}", value=violation.value, message=violation.message, fix=violation.fix
        )
        for violation in found
    ]


def validate_quality(config: DataPrepConfig) -> Iterator[Violation]:
    """Check the rules of filters that ranges cannot express."""
    yield from _language(config)
    yield from _files(config)
    yield from _thresholds(config)
    for number, settings in enumerate(config.custom_filters):
        yield from _custom_filter(f"custom_filters[{number}]", settings.get(TARGET_KEY))


def _language(config: DataPrepConfig) -> Iterator[Violation]:
    language = config.language
    if config.quality.rules and not language.identify and language.assume is None:
        yield Violation(
            path="quality.rules",
            value=list(config.quality.rules),
            message="requires the language of each document",
            fix="Set data_prep.language.identify=true, or data_prep.language.assume to the language of all documents.",
        )
    if language.identify and language.assume is not None:
        rule, fix = "cannot be combined with data_prep.language.identify=true", "Set only one of them."
        yield Violation(path="language.assume", value=language.assume, message=rule, fix=fix)
    if language.allowed and not language.identify:
        rule, fix = "requires the language of each document", "Set data_prep.language.identify=true."
        yield Violation(path="language.allowed", value=language.allowed, message=rule, fix=fix)
    named = [("language.allowed", code) for code in language.allowed]
    named += [("quality.by_language", code) for code in config.quality.by_language]
    named += [("language.assume", language.assume)] if language.assume is not None else []
    for path, code in named:
        if not _LANGUAGE.fullmatch(code):
            rule, fix = "must be a language code", "Use two or three lowercase letters, such as en, de, zh or yue."
            yield Violation(path=path, value=code, message=rule, fix=fix)


def _thresholds(config: DataPrepConfig) -> Iterator[Violation]:
    quality = config.quality
    yield from find_bad_thresholds(quality)
    given: dict[str, Mapping[str, Any]] = {"quality.thresholds": vars(quality.thresholds)}
    given |= {f"quality.by_language.{language}": limits for language, limits in quality.by_language.items()}
    for place, limits in given.items():
        for name, length in _SHARES_OF_NGRAMS.items():
            shares = limits.get(name)
            if isinstance(shares, list) and (len(shares) != length or not all(share in _SHARE for share in shares)):
                rule, fix = "must be a list of shares, one for each n", f"Use {length} numbers from 0 to 1."
                yield Violation(path=f"{place}.{name}", value=shares, message=rule, fix=fix)
        for name, allowed in _LIMITS.items() if place != "quality.thresholds" else ():
            value = limits.get(name)
            if isinstance(value, int | float) and value not in allowed:
                rule, fix = f"must be {allowed}", allowed.nearest(value)
                yield Violation(path=f"{place}.{name}", value=value, message=rule, fix=fix)


def find_bad_thresholds(config: QualityConfig) -> Iterator[Violation]:
    """Report every entry of by_language that is not a threshold, or has a value of another type."""
    for language, values in config.by_language.items():
        for violation in to_dataclass(QualityThresholds, values).violations:
            path = f"quality.by_language.{language}.{violation.path}"
            rule = violation.message.replace("the configuration", "data_prep.quality.thresholds")
            yield Violation(path=path, value=violation.value, message=rule, fix=violation.fix)


def _files(config: DataPrepConfig) -> Iterator[Violation]:
    lists = [(f"url_filter.block_lists[{i}]", path) for i, path in enumerate(config.url_filter.block_lists)]
    model = config.language.model_path
    for place, path in [*lists, *([("language.model_path", model)] if model is not None else [])]:
        if not Path(path).is_file():
            yield Violation(path=place, value=path, message="no such file", fix="Check the path.")


def _custom_filter(path: str, target: object) -> Iterator[Violation]:
    if not isinstance(target, str) or "." not in target:
        rule, fix = "must name a class", "Write {_target_: package.module.Class}."
        yield Violation(path=f"{path}.{TARGET_KEY}", value=target, message=rule, fix=fix)
        return
    module = target.rpartition(".")[0]
    try:
        is_installed = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        is_installed = False
    if not is_installed:
        rule, fix = f"no module named {module}", "Install it, or correct the name."
        yield Violation(path=f"{path}.{TARGET_KEY}", value=target, message=rule, fix=fix)


def _lengths(config: DataPrepConfig) -> Iterator[Violation]:
    cleaning = config.cleaning
    if cleaning.min_characters > cleaning.max_characters:
        yield Violation(
            path="cleaning.min_characters",
            value=cleaning.min_characters,
            message=f"must be at most data_prep.cleaning.max_characters={cleaning.max_characters}: else no document is"
            " kept",
            fix=f"Use {cleaning.max_characters} or less.",
        )


def _extractor(config: DataPrepConfig) -> Iterator[Violation]:
    if config.html.extractor != "trafilatura":
        return
    if importlib.util.find_spec("trafilatura") is None:
        fix = "Install it with pip install -e '.[trafilatura]', or use resiliparse."
        yield Violation(path="html.extractor", value="", message="trafilatura is not installed", fix=fix)
    if not config.html.main_content:
        rule = "must be true with html.extractor=trafilatura, which extracts only main content"
        fix = "Use true, or data_prep.html.extractor=resiliparse."
        yield Violation(path="html.main_content", value=False, message=rule, fix=fix)


def _sources(config: DataPrepConfig) -> Iterator[Violation]:
    if not config.sources:
        yield Violation(
            path="sources",
            value="",
            message="no input configured",
            fix="Set 'data_prep.sources=[{name:mine,kind:text,paths:[\"/data/*.txt\"]}]', or choose an option such as"
            " data_prep=wikipedia.",
        )
    yield from _source_names("sources", config.sources)


def _evaluations(config: DataPrepConfig) -> Iterator[Violation]:
    yield from _source_names("evaluations", config.evaluations)
    for number, source in enumerate(config.evaluations):
        if source.kind not in ("jsonl", "parquet", "text"):
            path, rule = f"evaluations[{number}].kind", "not supported for evaluation texts"
            yield Violation(path=path, value=source.kind, message=rule, fix="Use jsonl, parquet or text.")


def _source_names(name: str, sources: list[SourceConfig]) -> Iterator[Violation]:
    counts = Counter(source.name for source in sources)
    for number, source in enumerate(sources):
        path = f"{name}[{number}].name"
        if not _SOURCE_NAME.fullmatch(source.name):
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-._") or f"source{number}"
            rule = "must consist of letters, digits, '.', '_' and '-', and begin with a letter or digit"
            yield Violation(path=path, value=repr(source.name), message=rule, fix=f"Use {plain}.")
        elif counts[source.name] > 1:
            fix = "Give each source its own name, or list all files in the paths of one source."
            yield Violation(path=path, value=source.name, message="used by more than one source", fix=fix)
        if source.keep_whitespace is not None and source.kind in ("warc", "wikipedia"):
            rule, fix = f"not supported for kind {source.kind}, whose text is extracted from markup", "Remove it."
            path = f"{name}[{number}].keep_whitespace"
            yield Violation(path=path, value=source.keep_whitespace, message=rule, fix=fix)
        for field, value in (("max_retries", source.max_retries), ("retry_seconds", source.retry_seconds)):
            if value < 0:
                path = f"{name}[{number}].{field}"
                yield Violation(path=path, value=value, message="must be at least 0", fix="Use 0 or more.")


def _output_dir(config: DataPrepConfig) -> Iterator[Violation]:
    directory = Path(config.output_dir)
    existing = nearest_existing_parent(directory)
    if not existing.is_dir():
        rule = f"cannot create the directory: {existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        rule = f"no permission to write to {existing}"
    else:
        return
    yield Violation(
        path="output_dir", value=config.output_dir, message=rule, fix="Choose a directory that you can write to."
    )


def _slurm_jobs(config: DataPrepConfig) -> Iterator[Violation]:
    """Check the values that are written into job scripts."""
    settings, path = config.executor.slurm, "executor.slurm"
    if config.executor.kind != "slurm":
        return
    names = ("partition", "account", "qos", "memory", "time_limit", "python")
    yield from check_lines(path, {name: getattr(settings, name) for name in names})
    yield from check_options(f"{path}.options", settings.options, fields=_SBATCH_FIELDS, own=_SBATCH_OWN)
    output = str(Path(config.output_dir).absolute())
    if "\\" in output or not is_one_line(output):
        rule = "must not contain a backslash or a line break, which sbatch does not accept in the path of its output"
        yield Violation(path="output_dir", value=repr(output), message=rule, fix="Use another directory.")
