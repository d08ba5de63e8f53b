"""Turn a stream of token ids into text that can be shown at once, up to the first stop string."""

from collections.abc import Sequence

from trireme.tokenizer.tokenizer import IncrementalDecoder, Tokenizer


class TextStream:
    """Decode ids one by one; withhold incomplete characters, and text that may be the beginning of a stop string.

    Args:
        tokenizer: of the model.
        prompt: ids before the first one.
        stop: strings, none empty, that end the text; the first of them and what follows is not returned.
    """

    def __init__(self, tokenizer: Tokenizer, *, prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt=prompt)
        self._stop = tuple(stop)
        self._withheld = ""
        self.is_stopped = False
        """Whether the text contains a stop string."""

    def push(self, token: int) -> str:
        """Add one id; return the text that is certain now, often empty."""
        return self._add(self._decoder.push(token))

    def finish(self) -> str:
        """Return the text withheld, incomplete characters as U+FFFD."""
        text = self._add(self._decoder.finish())
        if not self.is_stopped:
            text, self._withheld = text + self._withheld, ""
        return text

    def _add(self, new: str) -> str:
        if self.is_stopped:
            return ""
        if not self._stop:
            return new
        text = self._withheld + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._withheld = True, ""
            return text[: min(found)]
        longest = max(map(len, self._stop)) - 1
        # The longest end of the text with which a stop string begins.
        length = next(
            (
                length
                for length in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-length:]) for stop in self._stop)
            ),
            0,
        )
        shown, self._withheld = text[: len(text) - length], text[len(text) - length :]
        return shown
