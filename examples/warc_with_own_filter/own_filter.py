"""A custom filter for data preparation."""

from collections.abc import Iterable, Iterator

from data_tools.document import Document


class DropShortTitles:
    """Drop pages whose first line has fewer than `min_words` words.

    data_prep.custom_filters names the class by `_target_`; the other keys are the arguments of `__init__`. Dropped
    documents appear in the ledger and the report as `step_DropShortTitles`.
    """

    def __init__(self, min_words: int) -> None:
        self.min_words = min_words

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents to keep; their text may be changed."""
        for document in documents:
            first_line = document.text.partition("\n")[0]
            if len(first_line.split()) >= self.min_words:
                yield document
