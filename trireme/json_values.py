"""Read JSON values that can be used as they are: those that Python would take, but not write again, are refused."""

import json
from typing import Any

_HALF_A_CHARACTER = (r"\ud", r"\uD")
"""How escapes begin that only in pairs are a character (U+D800 to U+DFFF), among others."""


class _Decoder(json.JSONDecoder):
    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        try:
            value, end = super().raw_decode(s, idx)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if any(s.find(beginning, idx, end) >= 0 for beginning in _HALF_A_CHARACTER):
            _check_characters(value)
        return value, end


_DECODER = _Decoder()


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds an escape such as \\ud83d that is half a character,
            which cannot be encoded.
    """
    return _DECODER.decode(text)


def parse_json_at(text: str, begin: int) -> tuple[Any, int]:
    """Return the JSON value that begins at a place of a text, and the place after it.

    Raises:
        ValueError: as `parse_json`.
    """
    return _DECODER.raw_decode(text, begin)


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"the escape {half} is half a character") from error
