"""The two kinds of tokenizer files behind `Tokenizer`: SentencePiece models and tokenizer.json of `tokenizers`."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers

REPLACEMENT = "\ufffd"
"""What decoding shows for bytes that are no whole character."""

EOS_NAMES = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
)
"""Names under which published tokenizers end a document, in the order in which they are looked for."""
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<|bos|>", "[BOS]", "<｜begin▁of▁sentence｜>")
"""The same for what begins one."""
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files beside a tokenizer.json that may name its end and its begin; the first that does so counts."""

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenizerModel(Protocol):
    """What `Tokenizer` asks of a file."""

    vocab_size: int
    eos_id: int | None
    bos_id: int | None
    unknown_id: int | None
    special_tokens: dict[str, int]

    @property
    def byte_ids(self) -> frozenset[int]: ...  # noqa: D102 - Tokenizer says what each of these is

    def token_id(self, token: str) -> int | None: ...  # noqa: D102

    def token_name(self, token: int) -> str | None: ...  # noqa: D102

    def encode(self, text: str) -> list[int]: ...  # noqa: D102

    def encode_with_special(self, text: str) -> list[int]: ...  # noqa: D102

    def decode(self, ids: Sequence[int]) -> str: ...  # noqa: D102


class SentencePieceModel:
    """A SentencePiece .model.

    Args:
        content: the file.
    Raises:
        ValueError: it is no such model.
    """

    def __init__(self, content: bytes) -> None:
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(content)
        except (RuntimeError, OSError) as error:
            raise ValueError(str(error)) from error
        self.vocab_size = int(self._model.GetPieceSize())
        self.eos_id = _optional(self._model.eos_id())
        self.bos_id = _optional(self._model.bos_id())
        self.unknown_id = _optional(self._model.unk_id())
        self.special_tokens = {
            str(self._model.IdToPiece(token)): token for token in range(self.vocab_size) if self._model.IsControl(token)
        }

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Pieces that are single bytes."""
        return frozenset(token for token in range(self.vocab_size) if self._model.IsByte(token))

    def token_id(self, token: str) -> int | None:
        """The id of a piece."""
        found = int(self._model.PieceToId(token))
        return found if self._model.IdToPiece(found) == token else None

    def token_name(self, token: int) -> str | None:
        """The piece of an id."""
        return str(self._model.IdToPiece(token)) if 0 <= token < self.vocab_size else None

    def encode(self, text: str) -> list[int]:
        """The library's own ids."""
        return list(self._model.EncodeAsIds(text))

    def encode_with_special(self, text: str) -> list[int]:
        """The same, but control symbols by their names; SentencePiece leaves inserting them to its callers.

        A model that puts a space before every text puts one behind each of them.
        """
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            special = self.special_tokens.get(part)
            ids += self.encode(part) if special is None else [special]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The library's own text."""
        return str(self._model.DecodeIds([int(token) for token in ids]))

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "(?!)")


class HuggingFaceModel:
    """A tokenizer.json.

    Args:
        content: the file.
        directory: where it lies; `CONFIG_NAMES` are looked for there.
    Raises:
        ValueError: it is none, or a file beside it names an end or begin that it does not have.
    """

    def __init__(self, content: bytes, *, directory: Path) -> None:
        self._model = tokenizers.Tokenizer.from_buffer(content)
        record = json.loads(content)
        # Some published files carry the limits of the model that they were made for.
        self._model.no_truncation()
        self._model.no_padding()
        # A document that spells a special token must not be cut short by it.
        self._model.encode_special_tokens = True
        self._ids: dict[str, int] = self._model.get_vocab(with_added_tokens=True)
        # Ids may have gaps.
        self.vocab_size = max(self._ids.values(), default=-1) + 1
        self.unknown_id = _find_unknown(record["model"], self._ids)
        self._is_byte_level = _has_byte_level(record.get("decoder"))
        self.special_tokens = {
            added.content: token
            for token, added in sorted(self._model.get_added_tokens_decoder().items())
            if added.special and token != self.unknown_id
        }
        named = _read_names(directory)
        self.eos_id = self._find_mark(named.get("eos_token"), "eos_token", EOS_NAMES)
        self.bos_id = self._find_mark(named.get("bos_token"), "bos_token", BOS_NAMES)

    def _find_mark(self, named: str | None, key: str, usual: tuple[str, ...]) -> int | None:
        if named is not None and named not in self._ids:
            raise ValueError(f"a file beside it names {key} {named}, which it does not have")
        names = usual if named is None else (named,)
        added = {token.content: id_ for id_, token in self._model.get_added_tokens_decoder().items()}
        found = next((name for name in names if name in added), named)
        return None if found is None else self._ids[found]

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens <0x00> to <0xFF> of byte fallback, and of byte-level vocabularies what is no whole character."""
        added = self._model.get_added_tokens_decoder()
        ids = [token for token in self._ids.values() if token not in added]
        if self._is_byte_level:
            return frozenset(token for token in ids if REPLACEMENT in self._model.decode([token]))
        return frozenset(token for token in ids if _BYTE_PIECE.fullmatch(self._model.id_to_token(token) or ""))

    def token_id(self, token: str) -> int | None:
        """The id of a token."""
        return self._ids.get(token)

    def token_name(self, token: int) -> str | None:
        """The token of an id."""
        return self._model.id_to_token(token) if token >= 0 else None

    def encode(self, text: str) -> list[int]:
        """The library's own ids."""
        return list(self._model.encode(text, add_special_tokens=False).ids)

    def encode_with_special(self, text: str) -> list[int]:
        """The same, with special tokens found in the text."""
        self._model.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._model.encode_special_tokens = True

    def decode(self, ids: Sequence[int]) -> str:
        """The library's own text."""
        return str(self._model.decode([int(token) for token in ids], skip_special_tokens=True))


def read_token_names(path: Path) -> dict[str, Any]:
    """Read the object of a tokenizer_config.json or special_tokens_map.json; empty when there is no such file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} beside it cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} beside it is no JSON object")
    return record


def _read_names(directory: Path) -> dict[str, str]:
    """eos_token and bos_token as the files beside a tokenizer.json name them."""
    names: dict[str, str] = {}
    for file in CONFIG_NAMES:
        record = read_token_names(directory / file)
        for key in ("eos_token", "bos_token"):
            value = record.get(key)
            # A token is written as its text, or as an object with its text and how it takes spaces.
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names.setdefault(key, value)
    return names


def _find_unknown(model: dict[str, Any], ids: dict[str, int]) -> int | None:
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return ids.get(model.get("unk_token") or "")


def _has_byte_level(decoder: dict[str, Any] | None) -> bool:
    """Whether a decoder, or one of the sequence that it is, is of the kind ByteLevel."""
    decoder = decoder or {}
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders", [])))


def _optional(token: int) -> int | None:
    return int(token) if token >= 0 else None
