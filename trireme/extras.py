"""Check that the packages of an optional part are installed."""

import importlib.util
from collections.abc import Iterable

from trireme.errors import Violation


def check_extra(extra: str, modules: Iterable[str]) -> list[Violation]:
    """Report modules that a command needs and this environment lacks.

    Args:
        extra: of pyproject.toml, which installs them.
        modules: names to import, without importing them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    message = f"requires {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
    fix = f"Run: pip install -e '.[{extra}]'"
    return [Violation(path="command", value="", message=message, fix=fix)]
