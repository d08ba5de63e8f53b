"""Steps that a configuration names by `_target_`: a class of the user's, or a filter of datatrove.

The class is made with the arguments beside `_target_`. It has either of
- `run(documents)`, a generator from documents to documents (`data_tools.document.Document`; it may change their text);
  it gets one document at a time, so that each one that it leaves out is counted
- `filter(document)`, as datatrove's filters have it; it gets datatrove's own kind of document, and answers whether to
  keep it, with a reason or without
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
    """Hands documents to a step that is made by name."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        target = str(settings.get(TARGET_KEY, ""))
        self._step = _make(target, {name: value for name, value in settings.items() if name != TARGET_KEY})
        self._name = target.rpartition(".")[2]
        self._is_datatrove_filter = callable(getattr(self._step, "filter", None))
        if self._is_datatrove_filter:
            self._datatrove_document = importlib.import_module(DATATROVE_DOCUMENT).Document
        elif not callable(getattr(self._step, "run", None)):
            rule = "has neither run(documents) nor filter(document)"
            raise _refuse(target, rule, "name a class that has one of them")

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Change a document as the step does, or raise if the step leaves it out."""
        if self._is_datatrove_filter:
            self._filter(document)
            return
        left = list(self._step.run(iter([document])))
        if not left:
            raise DroppedError(f"step_{self._name}")
        if len(left) > 1 or not isinstance(left[0], Document):
            raise TypeError(f"{self._name} made {len(left)} of one document, where one Document or none is due")
        if left[0] is not document:
            for field in ("text", "title", "url", "id", "language", "language_score"):
                setattr(document, field, getattr(left[0], field))

    def _filter(self, document: Document) -> None:
        metadata = {"url": document.url, "title": document.title, "language": document.language}
        foreign = self._datatrove_document(text=document.text, id=document.id, metadata=metadata)
        answer = self._step.filter(foreign)
        is_kept, reason = answer if isinstance(answer, tuple) else (answer, "")
        if not is_kept:
            raise DroppedError(f"step_{self._name}", str(reason))
        document.text = foreign.text


def _make(target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:  # the step is foreign code: whatever it raises tells the user what to change
        rule = f"cannot be made: {type(error).__name__}: {error}"
        raise _refuse(target, rule, "name an installed class and its arguments") from error


def _refuse(target: str, rule: str, fix: str) -> ConfigError:
    path = f"data_prep.further_steps {TARGET_KEY}"
    return ConfigError([Violation(path=path, value=target or "(missing)", message=rule, fix=fix)])
