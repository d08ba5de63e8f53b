"""Custom filters, named by `_target_` in the configuration: a class of the user's, or a filter of datatrove.

The class is created with the arguments next to `_target_`. It has one of two methods:
- `run(documents)`, a generator from documents to documents (`data_tools.document.Document`; it may change their text);
  it receives one document at a time, so that every dropped document is counted
- `filter(document)`, as in datatrove's filters; it receives datatrove's own type of document, and returns whether to
  keep it, optionally with a reason
"""

import importlib
from collections.abc import Mapping
from typing import Any

from data_tools.config.filtering import TARGET_KEY
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger
from trireme.errors import ConfigError, Violation

DATATROVE_DOCUMENT = "datatrove.data"


class CustomFilter:
    """Pass documents to a filter that the configuration names."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        target = str(settings.get(TARGET_KEY, ""))
        self._filter = _create(target, {name: value for name, value in settings.items() if name != TARGET_KEY})
        self._name = target.rpartition(".")[2]
        self._is_datatrove_filter = callable(getattr(self._filter, "filter", None))
        if self._is_datatrove_filter:
            self._datatrove_document = importlib.import_module(DATATROVE_DOCUMENT).Document
        elif not callable(getattr(self._filter, "run", None)):
            message = "the class must have a method run(documents) or filter(document)"
            raise _reject(target, message, "Add one of them, or name another class.")

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Apply the filter to a document; raise if the filter drops it."""
        if self._is_datatrove_filter:
            self._apply_datatrove_filter(document)
            return
        kept = list(self._filter.run(iter([document])))
        if not kept:
            raise DroppedError(f"step_{self._name}")
        if len(kept) > 1 or not isinstance(kept[0], Document):
            raise TypeError(f"{self._name} made {len(kept)} of one document, where one Document or none is due")
        if kept[0] is not document:
            for field in ("text", "title", "url", "id", "language", "language_score"):
                setattr(document, field, getattr(kept[0], field))

    def _apply_datatrove_filter(self, document: Document) -> None:
        metadata = {"url": document.url, "title": document.title, "language": document.language}
        foreign = self._datatrove_document(text=document.text, id=document.id, metadata=metadata)
        answer = self._filter.filter(foreign)
        is_kept, reason = answer if isinstance(answer, tuple) else (answer, "")
        if not is_kept:
            raise DroppedError(f"step_{self._name}", str(reason))
        document.text = foreign.text


def _create(target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:  # foreign code: whatever it raises tells the user what to change
        message = f"cannot create the filter: {type(error).__name__}: {error}"
        raise _reject(target, message, "Name an installed class and its arguments.") from error


def _reject(target: str, message: str, fix: str) -> ConfigError:
    path = f"data_prep.custom_filters {TARGET_KEY}"
    return ConfigError([Violation(path=path, value=target or "nothing", message=message, fix=fix)])
