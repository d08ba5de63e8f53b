"""What launch.plan is asked for: its own words, taken out of the overrides of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cli import split_arguments, unknown_option
from trireme.errors import ConfigError, Violation

WORDS = ("calibrate", "calibration", "html", "json", "tokens", "top")
PATHS = ("calibration", "html", "json")
"""Those of them that are, or may be, paths."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command line, taken apart."""

    overrides: tuple[str, ...]
    """Of the run."""
    calibrate: bool = False
    """Measure this host instead of planning."""
    calibration: str = "auto"
    """auto reads the calibration of this output directory when there is one, none reads none; else a file."""
    html: Path | None = None
    """Where the page is written."""
    json: Path | None = None
    """Where all figures are written."""
    tokens: float | None = None
    """That the run is to see; None takes those of training.train_iters."""
    top: int = 15
    """Layouts that are shown."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Split a command line.

    Raises:
        ConfigError: the planner's own words cannot be read; all problems at once.
    """
    split = split_arguments(arguments, words=WORDS)
    words = split.words
    problems = [unknown_option(option, known=("--help",), words=WORDS) for option in split.options]
    problems += split.check_words()
    problems += split.check_flags(("calibrate",))
    problems += (bad_paths := list(split.check_paths(PATHS)))
    tokens = _positive("tokens", words.get("tokens"), problems)
    top = words.get("top", "15")
    if not top.isdecimal() or int(top) < 1:
        problems.append(Violation(path="top", value=top, message="is no count of layouts", fix="use 1 or more"))
    paths = {} if bad_paths else {name: path for name in PATHS if (path := split.path(name)) is not None}
    calibration = str(paths.get("calibration", "auto"))
    if calibration not in ("auto", "none") and not Path(calibration).is_file():
        fix = "name a file that calibrate=true wrote, or use auto or none"
        problems.append(Violation(path="calibration", value=calibration, message="is no file", fix=fix))
    for name in ("html", "json"):
        if name in paths and not paths[name].absolute().parent.is_dir():
            rule = f"cannot be written: {paths[name].parent} is no directory"
            problems.append(Violation(path=name, value=words[name], message=rule, fix="name a file in one that exists"))
    if problems:
        raise ConfigError(problems)
    return Request(
        overrides=split.overrides,
        calibrate=split.is_true("calibrate"),
        calibration=calibration,
        html=paths.get("html"),
        json=paths.get("json"),
        tokens=tokens,
        top=int(top),
    )


def _positive(name: str, text: str | None, problems: list[Violation]) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value > 0 and math.isfinite(value):
        return value
    problems.append(
        Violation(path=name, value=text, message="is no positive number", fix="write tokens=15e12 or the like")
    )
    return None
