"""Read all files of a preparation once: find what is malformed, the names of classes and the range of numbers."""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.examples.encode import EncodeSettings
from data_tools.examples.example import BadLine, Example, LabelledText, TaggedWords, to_record
from data_tools.examples.read import ReadOptions, read_file
from data_tools.work.progress import Mode, StageProgress
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.shards.examples import MAX_CLASSES_OF_ONE_EXAMPLE

_MAX_DIGITS = 100
"""Of a class that is ordered as a number; Python converts no more than 4,300."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Say what to prepare, from which files, and where to."""

    inputs: tuple[Path, ...]
    output: Path
    """Prefix of the shard; the validation examples become PREFIX.validation."""
    reading: ReadOptions
    encoding: EncodeSettings
    """`labels` and `value_range` are filled in from the files where they are empty."""
    validation: tuple[Path, ...] = ()
    validation_share: float = 0.0
    """Share of the examples of `inputs` that are held out; equal texts, prompts or contexts stay together."""
    pack: bool = True
    skip_invalid: bool = False
    drop_duplicates: bool = False
    overwrite: bool = False
    num_workers: int | None = None
    seed: int = 0
    mode: Mode = "off"


@dataclass(kw_only=True)
class Contents:
    """Hold what a first reading of all files finds."""

    num_examples: int = 0
    labels: set[str] = field(default_factory=set)
    values: list[float] = field(default_factory=list)
    """Smallest and largest."""
    num_duplicates: int = 0
    bad: list[Violation] = field(default_factory=list)
    num_bad: int = 0


def survey(preparation: Preparation) -> Contents:
    """Read all files; find what is malformed and what the labels are."""
    contents = Contents()
    seen: set[bytes] = set()
    given = set(preparation.encoding.labels)
    num_read = 0
    with StageProgress("read", total=None, unit="examples", mode=preparation.mode) as progress:
        for path in (*preparation.inputs, *preparation.validation):
            num_before = num_read
            for item in read_known(path, preparation, given):
                num_read += 1
                if isinstance(item, BadLine):
                    contents.num_bad += 1
                    if not preparation.skip_invalid:
                        contents.bad.append(item.violation(str(path)))
                else:
                    contents.num_examples += 1
                    _note_labels(contents, item[1])
                    key = digest(to_record(item[1]))
                    contents.num_duplicates += key in seen
                    seen.add(key)
                progress.update(num_read)
            if num_read == num_before:
                fix = "Name a file with examples."
                contents.bad.append(Violation(path=str(path), value="", message="contains no examples", fix=fix))
    return contents


def read_known(path: Path, preparation: Preparation, given: set[str]) -> Iterator[tuple[int, Example] | BadLine]:
    """Yield the examples of a file with their lines; a class that is not among the given ones is malformed."""
    try:
        for item in read_file(path, preparation.reading):
            if isinstance(item, BadLine):
                yield item
                continue
            unknown = sorted(set(_labels_of(item.example)) - given) if given else []
            if unknown:
                fix = f"Use one of --labels: {', '.join(preparation.encoding.labels)}"
                message = "is none of the given labels"
                yield BadLine(line=item.line, field="label", message=message, fix=fix, value=", ".join(unknown))
            else:
                yield item.line, item.example
    except (OSError, EOFError, zlib.error) as error:
        fix = "Check the path and its permissions, and that the file is complete."
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error


def _labels_of(example: Example) -> tuple[str, ...]:
    match example:
        case LabelledText():
            return example.labels
        case TaggedWords():
            return example.tags
        case _:
            return ()


def _note_labels(contents: Contents, example: Example) -> None:
    contents.labels.update(_labels_of(example))
    if isinstance(example, LabelledText) and example.value is not None:
        contents.values = [min([*contents.values, example.value]), max([*contents.values, example.value])]


def check_labels(contents: Contents, preparation: Preparation) -> Iterator[Violation]:
    """Find what is wrong with the classes as a whole."""
    encoding = preparation.encoding
    if encoding.task not in ("classify", "tag") or contents.bad:
        return
    if encoding.target_kind == "value":
        if contents.values and not math.isfinite(contents.values[1] - contents.values[0]):
            shown = " to ".join(f"{value:g}" for value in contents.values)
            fix = "Correct the largest ones, or learn their logarithms."
            yield Violation(path="labels", value=shown, message="must not be as far apart as numbers can be", fix=fix)
        return
    labels = encoding.labels or tuple(contents.labels)
    if encoding.target_kind == "multi" and len(labels) > MAX_CLASSES_OF_ONE_EXAMPLE:
        message = f"an example with several classes may have one of at most {MAX_CLASSES_OF_ONE_EXAMPLE}"
        fix = "Leave out rare classes, or train two classifiers."
        yield Violation(path="labels", value=len(labels), message=message, fix=fix)
    if len(labels) < (1 if encoding.target_kind == "multi" else 2):
        fix = "Check --label-column."
        yield Violation(path="labels", value=", ".join(labels), message="must be at least two", fix=fix)
    elif len(labels) > max(1000, contents.num_examples // 2) and encoding.target_kind == "single":
        message = f"must be classes: {format_number(contents.num_examples, 'example')} have as many different ones"
        fix = "Check --label-column, or set --target value for numbers."
        yield Violation(path="labels", value=len(labels), message=message, fix=fix)


def complete_settings(encoding: EncodeSettings, contents: Contents) -> EncodeSettings:
    """Return the settings with what the files hold."""
    values = dict(vars(encoding))
    if encoding.task in ("classify", "tag") and not encoding.labels:
        values["labels"] = tuple(sorted(contents.labels, key=_order_of))
    if encoding.target_kind == "value" and contents.values:
        values["value_range"] = tuple(contents.values)
    return EncodeSettings(**values)


def _order_of(label: str) -> tuple[bool, int, str]:
    """Order numbers by size before names by the alphabet."""
    is_number = label.isascii() and label.removeprefix("-").isdigit() and len(label) <= _MAX_DIGITS
    return not is_number, int(label) if is_number else 0, label


def digest(value: Any) -> bytes:
    """Return 8 bytes that equal values have in common."""
    content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=8).digest()
