"""Take the text out of plain text and of JSON objects."""

import json
from typing import Any

from data_tools.document import Document, DroppedError, FailedError
from data_tools.extract.encoding import decode_text
from data_tools.ledger import Ledger

MAX_KEYS = 12
_MISSING = object()


def extract_plain(document: Document, ledger: Ledger) -> None:
    """Set a document's text to its content."""
    document.text = decode_text(document.content, declared=document.charset, is_html=False, ledger=ledger)


def extract_json(document: Document, ledger: Ledger) -> None:
    """Set a document's text, and what tells its origin, from a JSON object's keys."""
    keys = document.json_keys
    assert keys is not None
    try:
        value: Any = json.loads(document.content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FailedError("json_not_utf8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise FailedError("json_invalid", str(error)) from error
    if not isinstance(value, dict):
        raise FailedError("json_not_an_object", type(value).__name__)
    text = _find(value, keys.text)
    if text is _MISSING:
        raise DroppedError(
            "json_text_missing", f"no key {keys.text}; there are {', '.join(_list_keys(value)[:MAX_KEYS])}"
        )
    if isinstance(text, list) and text and all(isinstance(item, str) for item in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        raise DroppedError("json_text_not_a_string", type(text).__name__)
    document.text = text
    document.id = _read_name(_find(value, keys.id))
    document.url = _read_name(_find(value, keys.url))
    document.title = _read_name(_find(value, keys.title))


def _find(value: Any, key: str) -> Any:
    """Return what stands under a key, or, where there is none of this name, under the keys that its dots part."""
    if not isinstance(value, dict):
        return _MISSING
    if key in value:
        return value[key]
    first, dot, rest = key.partition(".")
    return _find(value.get(first), rest) if dot else _MISSING


def _list_keys(value: dict[str, Any]) -> list[str]:
    """Keys as `text_field` names them: those of objects within with a dot."""
    keys = []
    for key, item in value.items():
        keys += [f"{key}.{inner}" for inner in item] if isinstance(item, dict) and item else [key]
    return keys


def _read_name(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
