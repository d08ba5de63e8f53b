"""Remove lines from documents: notices, lines that are not sentences, repeated lines.

Source: C4, Raffel et al., https://arxiv.org/abs/1910.10683, section 2.2.
"""

import re
from collections.abc import Callable

from data_tools.config.filtering import LineConfig, QualityThresholds
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger
from data_tools.text.words import count_words

_CITATION = re.compile(r"\[(?:\d{1,4}|edit|citation needed)\]", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n{3,}")
_FOLDED_LETTERS = ("\u0130", "\u0131", "\u017f")
"""Letters beyond ASCII that match i and s without regard to case, but are not i and s in lower case."""


class LineCleaner:
    """Remove lines as configured."""

    def __init__(self, config: LineConfig, *, thresholds_of: Callable[[str], QualityThresholds]) -> None:
        self._config, self._thresholds_of = config, thresholds_of
        phrases = sorted(config.drop_containing)
        self._unwanted = re.compile("|".join(map(re.escape, phrases)), re.IGNORECASE) if phrases else None
        self._lowered_phrases = [phrase.lower() for phrase in phrases]
        self._has_ascii_phrases = all(map(str.isascii, phrases))

    @property
    def is_active(self) -> bool:
        """Return whether the configuration asks for anything."""
        return bool(self._unwanted or self._looks_at_lines or self._config.remove_citations)

    @property
    def _looks_at_lines(self) -> bool:
        """Return whether any line may be removed for something else than a phrase."""
        config = self._config
        return bool(config.min_words or config.require_end_punctuation or config.drop_repeated)

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Remove a document's unwanted lines, and raise if none is left."""
        text = _CITATION.sub("", document.text) if self._config.remove_citations else document.text
        thresholds = self._thresholds_of(document.language)
        unwanted = self._unwanted if self._may_hold_phrase(text) else None
        seen: set[str] = set()
        lines = kept = text.split("\n")
        if unwanted is not None or self._looks_at_lines:
            kept = [line for line in lines if not line.strip() or self._is_wanted(line, unwanted, thresholds, seen)]
        if len(kept) < len(lines):
            ledger.note("documents_with_removed_lines")
            text = "\n".join(kept)
        if not document.keep_whitespace:
            if "\n\n\n" in text:
                text = _BLANK_LINES.sub("\n\n", text)
            text = text.strip()
        document.text = text
        if not text.strip():
            raise DroppedError("no_line_left")

    def _may_hold_phrase(self, text: str) -> bool:
        """Whether a line may have one of the phrases; a look at the whole text, which few have, takes a tenth of the
        time of matching without regard to case."""
        if not self._has_ascii_phrases or any(letter in text for letter in _FOLDED_LETTERS):
            return True
        lowered = text.lower()
        return any(phrase in lowered for phrase in self._lowered_phrases)

    def _is_wanted(
        self, line: str, unwanted: re.Pattern[str] | None, thresholds: QualityThresholds, seen: set[str]
    ) -> bool:
        config = self._config
        if unwanted and unwanted.search(line):
            return False
        if config.min_words and count_words(line, thresholds.characters_per_word) < config.min_words:
            return False
        if config.require_end_punctuation and line.rstrip()[-1] not in thresholds.end_punctuation:
            return False
        if config.drop_repeated:
            plain = line.strip()
            if plain in seen:
                return False
            if len(plain) >= config.min_repeated_characters:
                seen.add(plain)
        return True
