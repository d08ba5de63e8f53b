"""The SentencePiece tokenizer, as training, evaluation and generation use it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from trainer.common.errors import ConfigError, Violation
from trainer.data.manifest import hash_file

REPLACEMENT = "\ufffd"
"""What decoding shows for bytes that are no whole character."""


class Tokenizer:
    """A SentencePiece model file.

    Args:
        path: the .model file.
    Raises:
        ConfigError: it is missing or no SentencePiece model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            fix = "name the .model file that `python -m data_tools.prepare` wrote beside the shards"
            raise ConfigError([Violation(path="tokenizer.path", value=path, rule="no such file", fix=fix)])
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(self.path.read_bytes())
        except (RuntimeError, OSError) as error:
            rule = f"is no SentencePiece model ({error})"
            fix = "name a .model file, or train the tokenizer again"
            raise ConfigError([Violation(path="tokenizer.path", value=path, rule=rule, fix=fix)]) from error

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._model.GetPieceSize())

    @property
    def eos_id(self) -> int | None:
        """Id that ends a document; None when the model has none."""
        return self._optional(self._model.eos_id())

    @property
    def bos_id(self) -> int | None:
        """Id that begins a document; None when the model has none."""
        return self._optional(self._model.bos_id())

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the model file, as shard manifests record it."""
        return hash_file(self.path)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids, without begin or end marks."""
        return list(self._model.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text; control tokens leave no trace."""
        return str(self._model.DecodeIds([int(token) for token in ids]))

    @staticmethod
    def _optional(token: int) -> int | None:
        return token if token >= 0 else None


class IncrementalDecoder:
    """Decodes a stream of ids: the pieces that come out, joined, are the text of all ids.

    Text is held back while it ends inside a character that byte tokens spell. Only the last few ids are decoded again,
    so the cost of a token does not grow with the text.

    Args:
        tokenizer: the model's tokenizer.
        prompt: ids that precede the stream; their text is not given out, but leading spaces depend on them.
    """

    def __init__(self, tokenizer: Tokenizer, *, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._given = list(prompt)
        """Ids whose text is out, as far back as decoding needs them."""
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Take one id; return the text that is complete now, often empty."""
        self._held.append(int(token))
        text = self._new_text()
        if text.endswith(REPLACEMENT):
            return ""
        # Ids without text of their own stay with those before them: a stream may open with control tokens.
        if text:
            self._given, self._held = self._held, []
        return text

    def finish(self) -> str:
        """Return what is held back, incomplete characters as U+FFFD."""
        text = self._new_text()
        self._given, self._held = self._given + self._held, []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._given)
        return self._tokenizer.decode([*self._given, *self._held])[len(before) :]
