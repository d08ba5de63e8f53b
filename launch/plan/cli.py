"""Parse the command line of launch.plan: its own options, and the overrides of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cli import find_setting_errors, split_arguments
from launch.plan.plan import check_plan
from trireme.errors import ConfigError, Violation

WORDS = ("calibrate", "calibration", "html", "json", "tokens", "top")
PATHS = ("calibration", "html", "json")
"""Those whose values are, or may be, paths."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold a parsed command line."""

    overrides: tuple[str, ...]
    """Overrides of the run's configuration."""
    calibrate: bool = False
    """Measure this host instead of planning."""
    calibration: str = "auto"
    """auto uses the calibration in the output directory if there is one, none uses none; otherwise a file."""
    html: Path | None = None
    """Path of the HTML report."""
    json: Path | None = None
    """Path of the JSON file."""
    tokens: float | None = None
    """Training tokens; None uses those of training.train_iters."""
    top: int = 15
    """Number of layouts to show."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Parse a command line.

    Raises:
        ConfigError: an option is unknown or has an invalid value; lists all of them.
    """
    split = split_arguments(arguments, words=WORDS, flags=("calibrate",))
    words = split.words
    problems = list(split.check_words())
    problems += split.check_flags(("calibrate",))
    problems += (bad_paths := list(split.check_paths(PATHS)))
    tokens = _positive("tokens", words.get("tokens"), problems)
    top = words.get("top", "15")
    if not top.isdecimal() or int(top) < 1:
        problems.append(Violation(path="top", value=top, message="must be a positive integer", fix="Use 1 or more."))
    paths = {} if bad_paths else {name: path for name in PATHS if (path := split.path(name)) is not None}
    calibration = str(paths.get("calibration", "auto"))
    if calibration not in ("auto", "none") and not Path(calibration).is_file():
        fix = "Use a file that calibrate=true wrote, auto or none."
        problems.append(Violation(path="calibration", value=calibration, message="no such file", fix=fix))
    for name in ("html", "json"):
        if name in paths and not paths[name].absolute().parent.is_dir():
            rule, fix = f"no such directory: {paths[name].parent}", "Use a path in a directory that exists."
            problems.append(Violation(path=name, value=words[name], message=rule, fix=fix))
    if problems:
        raise ConfigError([*problems, *find_setting_errors(split.overrides, check=check_plan)])
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
    fix = f"Write, for example, {name}=15e12."
    problems.append(Violation(path=name, value=text, message="must be a positive number", fix=fix))
    return None
