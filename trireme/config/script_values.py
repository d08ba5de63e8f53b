"""Rules about values that stand in the lines of a batch script."""

import re
from collections.abc import Collection, Iterator, Mapping

from trireme.config.suggest import to_yaml
from trireme.errors import Violation
from trireme.slurm import is_one_line

_OPTION = re.compile(r"[a-z][a-z0-9-]*")


def check_options(
    path: str, options: Mapping[str, object], *, fields: Mapping[str, str], own: Collection[str]
) -> Iterator[Violation]:
    """Name options of sbatch or srun that cannot be given.

    Args:
        path: of the mapping of long names.
        fields: option -> setting that decides on it.
        own: options that the script decides on.
    """
    for name, value in options.items():
        plain = name.lstrip("-").replace("_", "-").lower()
        if not _OPTION.fullmatch(name):
            rule, fix = "is no long name of an option", f"write {plain}"
        elif name in fields:
            rule, fix = "is an option with a field of its own", f"set {fields[name]}"
        elif name in own:
            rule, fix = "is what the script itself decides on", "leave it out"
        elif isinstance(value, dict | list):
            rule, fix = "is no single value", "write text, a number or null"
        elif not is_one_line(str(value)):
            rule, fix = "is no single line", "write it in one line"
        else:
            continue
        shown = repr(value) if isinstance(value, str) and not is_one_line(value) else to_yaml(value)
        yield Violation(path=f"{path}.{name}", value=shown, message=rule, fix=fix)


def check_lines(path: str, values: Mapping[str, str | None]) -> Iterator[Violation]:
    """Name values for a script's lines that are empty or several lines.

    Args:
        path: of the mapping that holds the values; each has its own path below.
    """
    for name, value in values.items():
        if value is not None and (not value.strip() or not is_one_line(value)):
            rule, fix = "is empty, or no single line", "write it in one line, or use null"
            yield Violation(path=f"{path}.{name}", value=repr(value), message=rule, fix=fix)
