"""Encode and decode text in preparation, training, evaluation and generation."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import hash_file
from trireme.tokenizer.backends import (
    CONFIG_NAMES,
    REPLACEMENT,
    FramePart,
    HuggingFaceModel,
    OffsetEncoding,
    SentencePieceModel,
    TokenizerModel,
    read_token_names,
)

HUGGINGFACE_NAME = "tokenizer.json"


class Tokenizer:
    """Load a SentencePiece model, or a tokenizer.json of Hugging Face's `tokenizers`; the content decides which.

    Encoding a text never produces special tokens, whatever it spells: use `encode_with_special` for that. For a
    tokenizer.json this is the library's `encode_special_tokens = True`.

    Args:
        path: the .model or tokenizer.json file. A tokenizer_config.json or special_tokens_map.json next to the latter
            names eos_token and bos_token; without it the usual names are tried (`EOS_NAMES`).
    Raises:
        ConfigError: it is missing, or neither of the two.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            fix = "Set it to the tokenizer.model or tokenizer.json that `trireme prepare` wrote."
            rule = "no such file"
            if self.path.is_dir():
                rule = "must be a file, not a directory"
                inside = [name for name in ("tokenizer.model", HUGGINGFACE_NAME) if (self.path / name).is_file()]
                fix = f"Use {' or '.join(str(self.path / name) for name in inside)}" if inside else fix
            raise ConfigError([Violation(path="tokenizer.path", value=path, message=rule, fix=fix)])
        self._model = self._open()

    @property
    def is_huggingface(self) -> bool:
        """Return whether it is a tokenizer.json."""
        return isinstance(self._model, HuggingFaceModel)

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids: the largest one plus 1."""
        return self._model.vocab_size

    @property
    def eos_id(self) -> int | None:
        """Return the id that ends a document; None when there is none."""
        return self._model.eos_id

    @property
    def bos_id(self) -> int | None:
        """Return the id that begins a document; None when there is none."""
        return self._model.bos_id

    @property
    def unknown_id(self) -> int | None:
        """Return the id of the unknown token; None when there is none."""
        return self._model.unknown_id

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Return the ids, by name, of tokens that no text produces: chat markers, eos_token and bos_token."""
        return self._model.special_tokens

    @property
    def byte_ids(self) -> frozenset[int]:
        """Return the ids that stand for bytes which alone need not be a character."""
        return self._model.byte_ids

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """Return the ids that transformers' tokenizer of the same file puts before a text; often none, or bos_token."""
        return self._model.opening_ids

    @cached_property
    def sha256(self) -> str:
        """Return the hex digest of the file, as shard manifests record it."""
        return hash_file(self.path)

    def read_config(self) -> dict[str, Any]:
        """Read the tokenizer_config.json next to a tokenizer.json; empty when there is none."""
        return read_token_names(self.path.parent / CONFIG_NAMES[0]) if self.is_huggingface else {}

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its name; None when there is no such token."""
        return self._model.token_id(token)

    def token_name(self, token: int) -> str | None:
        """Return the name of a token by its id; None when there is no such id."""
        return self._model.token_name(token)

    def encode(self, text: str) -> list[int]:
        """Encode text to ids, without bos_token or eos_token; text that spells a special token is ordinary text."""
        return self._model.encode(text)

    def encode_with_special(self, text: str) -> list[int]:
        """Encode text in which special tokens stand for themselves.

        For text that a program assembles, such as a chat template. Encode users' text with `encode`, or they could
        insert the markers too.
        """
        return self._model.encode_with_special(text)

    def encode_with_offsets(self, text: str) -> OffsetEncoding:
        """Encode text as `encode` does; return the ids with the characters of the text that each stands for."""
        return self._model.encode_with_offsets(text)

    def read_frame(self, num_texts: int) -> tuple[FramePart, ...]:
        """Return the special tokens that transformers' tokenizer of this file puts around one text or two, in order.

        BERT's are [CLS] a [SEP] and [CLS] a [SEP] b [SEP], with token type 1 from b on.
        """
        return self._model.read_frame(num_texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text; special tokens are skipped."""
        return self._model.decode(ids)

    def _open(self) -> TokenizerModel:
        content = self.path.read_bytes()
        is_json = content.lstrip()[:1] == b"{"
        try:
            if is_json:
                return HuggingFaceModel(content, directory=self.path.parent)
            return SentencePieceModel(content)
        except (ValueError, KeyError) as error:
            what = "tokenizer.json of the tokenizers library" if is_json else "SentencePiece model or a tokenizer.json"
            rule = f"must be a {what}: {error}"
            fix = "Use a .model or a tokenizer.json file, or train the tokenizer again."
            raise ConfigError([Violation(path="tokenizer.path", value=self.path, message=rule, fix=fix)]) from error


class IncrementalDecoder:
    """Decode a stream of ids: the returned pieces, joined, are the text of all ids.

    Text is held back while it ends inside a character that byte tokens spell. Only the last few ids are decoded again,
    so the cost of a token does not grow with the text. `tokenizers` replaces a whole run of invalid bytes by U+FFFD,
    including characters in it; characters that were returned before are not changed.

    Args:
        tokenizer: the model's tokenizer.
        prompt: ids that precede the stream; their text is not returned, but leading spaces depend on them.
    """

    def __init__(self, tokenizer: Tokenizer, *, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._given = list(prompt)
        """Ids whose text was returned, as far back as decoding needs them."""
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Add one id; return the text that is complete now, often empty."""
        self._held.append(int(token))
        text = self._new_text()
        if text.endswith(REPLACEMENT):
            return ""
        # Ids without text stay with those before them: a stream may begin with control tokens.
        if text:
            self._given, self._held = self._held, []
        return text

    def finish(self) -> str:
        """Return the text held back, incomplete characters as U+FFFD."""
        text = self._new_text()
        self._given, self._held = self._given + self._held, []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._given)
        return self._tokenizer.decode([*self._given, *self._held])[len(before) :]
