"""The rules of the settings for the steps that judge documents."""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.config import DataPrepConfig
from data_tools.further_steps import TARGET_KEY
from data_tools.quality_config import QualityConfig, QualityThresholds
from trireme.config.convert import to_dataclass
from trireme.config.ranges import Range
from trireme.errors import Violation

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
"""Lists of limits, and how long they are."""
QUALITY_RANGES: dict[str, Range] = {
    "language.min_score": _SHARE,
    "language.num_characters": Range(minimum=1),
    "lines.min_words": _NOT_NEGATIVE,
    "lines.min_repeated_characters": _NOT_NEGATIVE,
    **{f"quality.thresholds.{name}": allowed for name, allowed in _LIMITS.items()},
}
"""Numbers of these settings, by their path below data_prep."""

_LANGUAGE = re.compile(r"[a-z]{2,3}")


def validate_quality(config: DataPrepConfig) -> Iterator[Violation]:
    """Check what ranges cannot say."""
    yield from _language(config)
    yield from _files(config)
    yield from _thresholds(config)
    for number, settings in enumerate(config.further_steps):
        yield from _further_step(f"further_steps[{number}]", settings.get(TARGET_KEY))


def _language(config: DataPrepConfig) -> Iterator[Violation]:
    language = config.language
    if config.quality.rules and not language.identify and language.assume is None:
        yield Violation(
            path="quality.rules",
            value=list(config.quality.rules),
            rule="need the language of each document",
            fix="set data_prep.language.identify=true, or data_prep.language.assume to the language of all",
        )
    if language.identify and language.assume is not None:
        rule, fix = "is not needed where languages are identified", "set one of identify and assume"
        yield Violation(path="language.assume", value=language.assume, rule=rule, fix=fix)
    if language.allowed and not language.identify:
        rule, fix = "needs the language of each document", "set data_prep.language.identify=true"
        yield Violation(path="language.allowed", value=language.allowed, rule=rule, fix=fix)
    named = [("language.allowed", code) for code in language.allowed]
    named += [("quality.by_language", code) for code in config.quality.by_language]
    named += [("language.assume", language.assume)] if language.assume is not None else []
    for path, code in named:
        if not _LANGUAGE.fullmatch(code):
            rule, fix = "is no code of a language", "use two or three small letters, such as en, de, zh or yue"
            yield Violation(path=path, value=code, rule=rule, fix=fix)


def _thresholds(config: DataPrepConfig) -> Iterator[Violation]:
    quality = config.quality
    yield from find_bad_thresholds(quality)
    given: dict[str, Mapping[str, Any]] = {"quality.thresholds": vars(quality.thresholds)}
    given |= {f"quality.by_language.{language}": limits for language, limits in quality.by_language.items()}
    for place, limits in given.items():
        for name, length in _SHARES_OF_NGRAMS.items():
            shares = limits.get(name)
            if isinstance(shares, list) and (len(shares) != length or not all(share in _SHARE for share in shares)):
                rule, fix = "is no list of shares, one for each n", f"write {length} numbers from 0 to 1"
                yield Violation(path=f"{place}.{name}", value=shares, rule=rule, fix=fix)
        for name, allowed in _LIMITS.items() if place != "quality.thresholds" else ():
            value = limits.get(name)
            if isinstance(value, int | float) and value not in allowed:
                rule, fix = f"is not {allowed}", allowed.nearest(value)
                yield Violation(path=f"{place}.{name}", value=value, rule=rule, fix=fix)


def find_bad_thresholds(config: QualityConfig) -> Iterator[Violation]:
    """Name every entry of by_language that is no threshold, or has a value of another type."""
    for language, values in config.by_language.items():
        for violation in to_dataclass(QualityThresholds, values).violations:
            path = f"quality.by_language.{language}.{violation.path}"
            rule = violation.rule.replace("the configuration", "data_prep.quality.thresholds")
            yield Violation(path=path, value=violation.value, rule=rule, fix=violation.fix)


def _files(config: DataPrepConfig) -> Iterator[Violation]:
    lists = [(f"url_filter.block_lists[{i}]", path) for i, path in enumerate(config.url_filter.block_lists)]
    model = config.language.model_path
    for place, path in [*lists, *([("language.model_path", model)] if model is not None else [])]:
        if not Path(path).is_file():
            yield Violation(path=place, value=path, rule="is no file", fix="name a file that exists")


def _further_step(path: str, target: object) -> Iterator[Violation]:
    if not isinstance(target, str) or "." not in target:
        rule, fix = "names no class", "write {_target_: package.module.Class}"
        yield Violation(path=f"{path}.{TARGET_KEY}", value=target, rule=rule, fix=fix)
        return
    module = target.rpartition(".")[0]
    try:
        is_there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        is_there = False
    if not is_there:
        rule, fix = f"lies in no module: {module} is not installed", "install it, or correct the name"
        yield Violation(path=f"{path}.{TARGET_KEY}", value=target, rule=rule, fix=fix)
