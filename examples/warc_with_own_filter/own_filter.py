"""A filter of your own: one document at a time, in whichever process has it."""

from data_tools.document import Document


class DropShortTitles:
    """Drop pages whose first line has fewer than `min_words` words.

    The class is named by `_target_` in data_prep.further_steps; what stands beside it there are the arguments.
    Dropped documents appear in the ledger and the report as `step_DropShortTitles`.
    """

    def __init__(self, min_words: int) -> None:
        self.min_words = min_words

    def filter(self, document: Document) -> bool:
        """True keeps the document."""
        first_line = document.text.partition("\n")[0]
        return len(first_line.split()) >= self.min_words
