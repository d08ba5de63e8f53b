"""Drop documents by size."""

from data_tools.config.filtering import CleaningConfig
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger


class SizeLimits:
    """Drops documents that are too short or too long, or could not be decoded."""

    def __init__(self, config: CleaningConfig) -> None:
        self._min, self._max = config.min_characters, config.max_characters
        self._max_replacement_share = config.max_replacement_share

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise if a document's normalised text is too short or too long, or full of replacement characters."""
        size = len(document.text)
        if not size or document.text.isspace():
            raise DroppedError("no_text")
        if size < self._min:
            raise DroppedError("too_short", f"{size} characters")
        if size > self._max:
            raise DroppedError("too_long", f"{size} characters")
        if "\ufffd" in document.text:
            share = document.text.count("\ufffd") / size
            if share > self._max_replacement_share:
                raise DroppedError("broken_encoding", f"{share:.3f} of the characters")
