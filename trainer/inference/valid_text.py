"""Find what JSON and command lines may contain and text may not: lone surrogates.

JSON can spell half a character, such as "\\ud800", and Python represents bytes that are not UTF-8 so. Tokenizers and
UTF-8 know no such halves.
"""

import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Return whether all characters exist."""
    return _SURROGATE.search(text) is None


def find_surrogate(value: Any) -> tuple[str, str] | None:
    """Return where a JSON value contains a lone surrogate, as `messages.0.content`, and the surrogate, as `\\ud800`.

    Keys count too: they are named by their object. None if there is none.
    """
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        place, one = pending.pop()
        if isinstance(one, str):
            found = _SURROGATE.search(one)
            if found is not None:
                return place, f"\\u{ord(found[0]):04x}"
        elif isinstance(one, Mapping):
            pending += [(f"{place}.{key}".lstrip("."), part) for key, part in one.items() if is_text(key)]
            pending += [(place, key) for key in one]
        elif isinstance(one, list):
            pending += [(f"{place}.{number}".lstrip("."), part) for number, part in enumerate(one)]
    return None
