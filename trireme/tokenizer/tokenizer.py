"""The tokenizer, as preparation, training, evaluation and generation use it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import hash_file
from trireme.tokenizer.backends import (
    CONFIG_NAMES,
    REPLACEMENT,
    HuggingFaceModel,
    SentencePieceModel,
    TokenizerModel,
    read_token_names,
)

HUGGINGFACE_NAME = "tokenizer.json"


class Tokenizer:
    """A SentencePiece model, or a tokenizer.json of Hugging Face's `tokenizers`; the content tells which.

    A text never gives special tokens, whatever it spells: that is for `encode_with_special`. For a tokenizer.json this
    is the library's `encode_special_tokens = True`.

    Args:
        path: the .model or tokenizer.json file. A tokenizer_config.json or special_tokens_map.json beside the latter
            says which tokens end and begin a document; without it the usual names are looked for (`EOS_NAMES`).
    Raises:
        ConfigError: it is missing or neither.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            fix = (
                "name the tokenizer.model or tokenizer.json that `python -m data_tools.prepare` wrote beside the shards"
            )
            rule = "no such file"
            if self.path.is_dir():
                rule = "is a directory"
                inside = [name for name in ("tokenizer.model", HUGGINGFACE_NAME) if (self.path / name).is_file()]
                fix = f"use {' or '.join(str(self.path / name) for name in inside)}" if inside else fix
            raise ConfigError([Violation(path="tokenizer.path", value=path, message=rule, fix=fix)])
        self._model = self._open()

    @property
    def is_huggingface(self) -> bool:
        """Whether it is a tokenizer.json."""
        return isinstance(self._model, HuggingFaceModel)

    @property
    def vocab_size(self) -> int:
        """Number of token ids: the largest and one more."""
        return self._model.vocab_size

    @property
    def eos_id(self) -> int | None:
        """Id that ends a document; None when there is none."""
        return self._model.eos_id

    @property
    def bos_id(self) -> int | None:
        """Id that begins a document; None when there is none."""
        return self._model.bos_id

    @property
    def unknown_id(self) -> int | None:
        """Id that stands for what cannot be written; None when there is none."""
        return self._model.unknown_id

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that no text gives, such as chat markers, the end and the begin of a document: their ids by name."""
        return self._model.special_tokens

    @property
    def byte_ids(self) -> frozenset[int]:
        """Ids that stand for bytes which alone need not be a character."""
        return self._model.byte_ids

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file, as shard manifests record it."""
        return hash_file(self.path)

    def read_config(self) -> dict[str, Any]:
        """The tokenizer_config.json beside a tokenizer.json; empty when there is none."""
        return read_token_names(self.path.parent / CONFIG_NAMES[0]) if self.is_huggingface else {}

    def token_id(self, token: str) -> int | None:
        """The id of one token by its name; None when there is no such token."""
        return self._model.token_id(token)

    def token_name(self, token: int) -> str | None:
        """The name of one token by its id; None when there is no such id."""
        return self._model.token_name(token)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids, without begin or end marks; what spells a special token is text as any other."""
        return self._model.encode(text)

    def encode_with_special(self, text: str) -> list[int]:
        """Turn text into ids, where special tokens stand for themselves.

        For text that a program puts together, such as a chat template. What users wrote goes through `encode`, or they
        could write the markers too.
        """
        return self._model.encode_with_special(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text; special tokens leave no trace."""
        return self._model.decode(ids)

    def _open(self) -> TokenizerModel:
        content = self.path.read_bytes()
        is_json = content.lstrip()[:1] == b"{"
        try:
            if is_json:
                return HuggingFaceModel(content, directory=self.path.parent)
            return SentencePieceModel(content)
        except (ValueError, KeyError) as error:
            what = (
                "tokenizer.json of the tokenizers library" if is_json else "SentencePiece model, nor a tokenizer.json"
            )
            rule = f"is no {what} ({error})"
            fix = "name a .model or a tokenizer.json file, or train the tokenizer again"
            raise ConfigError([Violation(path="tokenizer.path", value=self.path, message=rule, fix=fix)]) from error


class IncrementalDecoder:
    """Decodes a stream of ids: the pieces that come out, joined, are the text of all ids.

    Text is held back while it ends inside a character that byte tokens spell. Only the last few ids are decoded again,
    so the cost of a token does not grow with the text. Of bytes that are no character `tokenizers` shows the whole run
    as U+FFFD, characters in it too; those that were whole before stay as they were given out.

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
