"""Take the text out of plain text and of JSON objects."""

import json
from typing import Any

from data_tools.document import Document, DroppedError, FailedError
from data_tools.ledger import Ledger
from data_tools.text_encoding import decode_text


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
    if keys.text not in value:
        raise DroppedError("json_text_missing", f"no key {keys.text}; there are {', '.join(list(value)[:8])}")
    text = value[keys.text]
    if not isinstance(text, str):
        raise DroppedError("json_text_not_a_string", type(text).__name__)
    document.text = text
    document.id = _read_name(value.get(keys.id))
    document.url = _read_name(value.get(keys.url))
    document.title = _read_name(value.get(keys.title))


def _read_name(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
