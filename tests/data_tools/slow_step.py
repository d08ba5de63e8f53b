"""A step that never ends on texts that hold a word."""

from collections.abc import Iterable, Iterator

from data_tools.document import Document


class StopForever:
    """Within one call of a library, which no exception interrupts."""

    def __init__(self, word: str) -> None:
        self._word = word

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            if self._word in document.text:
                sum(range(10**15))
            yield document
