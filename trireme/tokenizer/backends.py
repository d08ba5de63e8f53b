"""Load the two kinds of tokenizer files behind `Tokenizer`: SentencePiece models and tokenizer.json of `tokenizers`."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import sentencepiece
import tokenizers

REPLACEMENT = "\ufffd"
"""The result of decoding bytes that are not a whole character."""

EOS_NAMES = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
)
"""Names of the end-of-document token in published tokenizers, in order of preference."""
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<|bos|>", "[BOS]", "<｜begin▁of▁sentence｜>")
"""The same for the begin-of-document token."""
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files next to a tokenizer.json that may name its eos_token and bos_token; the first that does takes effect."""

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class FramePart(NamedTuple):
    """Describe a place in the frame of special tokens that a tokenizer puts around one text, or around two."""

    text: int | None
    """0 or 1: here is the first or the second text; None for a special token."""
    token: int | None
    """Id of the special token; None for a text."""
    token_type: int
    """Type (segment) of the tokens here."""


class OffsetEncoding(NamedTuple):
    """Hold the tokens of a text, and where each is in it."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """Characters [begin, end) of the text, of each token; they may begin with the space before a word."""


class TokenizerModel(Protocol):
    """Define the interface between `Tokenizer` and a kind of file."""

    vocab_size: int
    eos_id: int | None
    bos_id: int | None
    unknown_id: int | None
    special_tokens: dict[str, int]

    @property
    def byte_ids(self) -> frozenset[int]: ...  # noqa: D102 - see Tokenizer

    @property
    def opening_ids(self) -> tuple[int, ...]: ...  # noqa: D102

    def token_id(self, token: str) -> int | None: ...  # noqa: D102

    def token_name(self, token: int) -> str | None: ...  # noqa: D102

    def encode(self, text: str) -> list[int]: ...  # noqa: D102

    def encode_with_special(self, text: str) -> list[int]: ...  # noqa: D102

    def encode_with_offsets(self, text: str) -> OffsetEncoding: ...  # noqa: D102

    def read_frame(self, num_texts: int) -> tuple[FramePart, ...]: ...  # noqa: D102

    def decode(self, ids: Sequence[int]) -> str: ...  # noqa: D102


class SentencePieceModel:
    """Wrap a SentencePiece .model.

    Args:
        content: the file's bytes.
    Raises:
        ValueError: they are not such a model.
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
        """Return the ids of pieces that are single bytes."""
        return frozenset(token for token in range(self.vocab_size) if self._model.IsByte(token))

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """Return nothing: SentencePiece adds bos_token only where a program asks for it."""
        return ()

    def token_id(self, token: str) -> int | None:
        """Return the id of a piece."""
        found = int(self._model.PieceToId(token))
        return found if self._model.IdToPiece(found) == token else None

    def token_name(self, token: int) -> str | None:
        """Return the piece of an id."""
        return str(self._model.IdToPiece(token)) if 0 <= token < self.vocab_size else None

    def encode(self, text: str) -> list[int]:
        """Encode text to ids with the library."""
        return list(self._model.EncodeAsIds(text))

    def encode_with_special(self, text: str) -> list[int]:
        """Encode text in which control symbols stand for themselves; SentencePiece leaves that to its callers.

        A model that puts a space before every text puts one after each of them.
        """
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            special = self.special_tokens.get(part)
            ids += self.encode(part) if special is None else [special]
        return ids

    def encode_with_offsets(self, text: str) -> OffsetEncoding:
        """Encode text, with the place of each token."""
        mapping = self._model.encode(text, return_type="offset_mapping")
        return OffsetEncoding(list(mapping["ids"]), list(mapping["offsets"]))

    def read_frame(self, num_texts: int) -> tuple[FramePart, ...]:
        """Return the texts alone: SentencePiece frames nothing."""
        return tuple(FramePart(text, None, 0) for text in range(num_texts))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text with the library."""
        return str(self._model.DecodeIds([int(token) for token in ids]))

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "(?!)")


class HuggingFaceModel:
    """Wrap a tokenizer.json.

    Args:
        content: the file's bytes.
        directory: its directory, which may contain `CONFIG_NAMES`.
    Raises:
        ValueError: the file is invalid, or a file next to it names an eos_token or bos_token that it lacks.
    """

    def __init__(self, content: bytes, *, directory: Path) -> None:
        self._model = tokenizers.Tokenizer.from_buffer(content)
        record = json.loads(content)
        # Some published files contain the length limits of the model that they were made for.
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
        self._adds_bos = read_token_names(directory / CONFIG_NAMES[0]).get("add_bos_token")
        named = _read_names(directory)
        self.eos_id = self._find_mark(named.get("eos_token"), "eos_token", EOS_NAMES)
        self.bos_id = self._find_mark(named.get("bos_token"), "bos_token", BOS_NAMES)

    def _find_mark(self, named: str | None, key: str, usual: tuple[str, ...]) -> int | None:
        if named is not None and named not in self._ids:
            raise ValueError(f"a file next to it sets {key} to {named}, which is not in the vocabulary")
        names = usual if named is None else (named,)
        added = {token.content: id_ for id_, token in self._model.get_added_tokens_decoder().items()}
        found = next((name for name in names if name in added), named)
        return None if found is None else self._ids[found]

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Return tokens <0x00> to <0xFF> of byte fallback, or byte-level tokens that are not a whole character."""
        added = self._model.get_added_tokens_decoder()
        ids = [token for token in self._ids.values() if token not in added]
        if self._is_byte_level:
            return frozenset(token for token in ids if REPLACEMENT in self._model.decode([token]))
        return frozenset(token for token in ids if _BYTE_PIECE.fullmatch(self._model.id_to_token(token) or ""))

    @cached_property
    def opening_ids(self) -> tuple[int, ...]:
        """Return what the post-processor puts before a text, or bos_token as tokenizer_config.json decides."""
        if isinstance(self._adds_bos, bool):
            return (self.bos_id,) if self._adds_bos and self.bos_id is not None else ()
        plain, whole = (self._model.encode("a", add_special_tokens=adds).ids for adds in (False, True))
        ends = [place for place in range(len(whole)) if whole[place : place + len(plain)] == plain]
        return tuple(whole[: ends[0]]) if ends else ()

    def token_id(self, token: str) -> int | None:
        """Return the id of a token."""
        return self._ids.get(token)

    def token_name(self, token: int) -> str | None:
        """Return the token of an id."""
        return self._model.id_to_token(token) if token >= 0 else None

    def encode(self, text: str) -> list[int]:
        """Encode text to ids with the library."""
        return list(self._model.encode(text, add_special_tokens=False).ids)

    def encode_with_special(self, text: str) -> list[int]:
        """Encode text in which special tokens stand for themselves."""
        self._model.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._model.encode_special_tokens = True

    def encode_with_offsets(self, text: str) -> OffsetEncoding:
        """Encode text, with the place of each token."""
        encoding = self._model.encode(text, add_special_tokens=False)
        return OffsetEncoding(list(encoding.ids), list(encoding.offsets))

    def read_frame(self, num_texts: int) -> tuple[FramePart, ...]:
        """Return what the post-processor puts around one text or two, or bos_token as tokenizer_config.json decides."""
        encoding = self._model.encode("a", "a" if num_texts == 2 else None)
        parts: list[FramePart] = []
        for text, token, token_type in zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True):
            part = FramePart(text, token if text is None else None, token_type)
            if text is None or not parts or parts[-1] != part:
                parts.append(part)
        if isinstance(self._adds_bos, bool):
            first = next(place for place, part in enumerate(parts) if part.text is not None)
            parts[:first] = [FramePart(None, token, parts[first].token_type) for token in self.opening_ids]
        return tuple(parts)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text with the library."""
        return str(self._model.decode([int(token) for token in ids], skip_special_tokens=True))


def read_token_names(path: Path) -> dict[str, Any]:
    """Read the object of a tokenizer_config.json or special_tokens_map.json; empty when there is no such file.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} next to it cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} next to it must be a JSON object")
    return record


def _read_names(directory: Path) -> dict[str, str]:
    """Read eos_token and bos_token from the files next to a tokenizer.json."""
    names: dict[str, str] = {}
    for file in CONFIG_NAMES:
        record = read_token_names(directory / file)
        for key in ("eos_token", "bos_token"):
            value = record.get(key)
            # A token is written as its text, or as an object with its text and its treatment of spaces.
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names.setdefault(key, value)
    return names


def _find_unknown(model: dict[str, Any], ids: dict[str, int]) -> int | None:
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return ids.get(model.get("unk_token") or "")


def _has_byte_level(decoder: dict[str, Any] | None) -> bool:
    """Return whether a decoder, or one in its sequence, is of the kind ByteLevel."""
    decoder = decoder or {}
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders", [])))


def _optional(token: int) -> int | None:
    return int(token) if token >= 0 else None
