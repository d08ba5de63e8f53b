"""Check values that are written into the lines of a batch script."""

import re
from collections.abc import Collection, Iterator, Mapping

from trireme.config.suggest import to_yaml
from trireme.errors import Violation
from trireme.slurm import is_one_line

_OPTION = re.compile(r"[a-z][a-z0-9-]*")


def check_options(
    path: str, options: Mapping[str, object], *, fields: Mapping[str, str], own: Collection[str]
) -> Iterator[Violation]:
    """Report options of sbatch or srun that cannot be set.

    Args:
        path: of the mapping of long names.
        fields: option -> setting that controls it.
        own: options that the batch script sets itself.
    """
    for name, value in options.items():
        plain = name.lstrip("-").replace("_", "-").lower()
        if not _OPTION.fullmatch(name):
            rule, fix = "must be the long name of an option, without dashes in front", f"Use {plain}."
        elif name in fields:
            rule, fix = "this option is controlled by a setting of its own", f"Set {fields[name]} instead."
        elif name in own:
            rule, fix = "this option is set by the batch script itself", "Remove it."
        elif isinstance(value, dict | list):
            rule, fix = "must be a single value", "Use a string, a number or null."
        elif not is_one_line(str(value)):
            rule, fix = "must be a single line", "Remove the line breaks."
        else:
            continue
        shown = repr(value) if isinstance(value, str) and not is_one_line(value) else to_yaml(value)
        yield Violation(path=f"{path}.{name}", value=shown, message=rule, fix=fix)


def check_lines(path: str, values: Mapping[str, str | None]) -> Iterator[Violation]:
    """Report values for a script's lines that are empty or span several lines.

    Args:
        path: of the mapping that holds the values; each has its own path below.
    """
    for name, value in values.items():
        if value is not None and (not value.strip() or not is_one_line(value)):
            rule, fix = "must be a single, non-empty line", "Write it in one line, or use null."
            yield Violation(path=f"{path}.{name}", value=repr(value), message=rule, fix=fix)
