"""A step of data preparation that tests can hold up."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.document import Document


class WaitAt:
    """Passes documents on; at one that holds the mark it waits until the gate is gone.

    Args:
        mark: a piece of text.
        gate: a file.
    """

    def __init__(self, *, mark: str, gate: str) -> None:
        self._mark = mark
        self._gate = Path(gate)

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, unchanged."""
        for document in documents:
            while self._mark in document.text and self._gate.exists():
                time.sleep(0.05)
            yield document
