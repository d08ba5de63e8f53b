"""Turn documents into token ids fast, with the very ids that the tokenizer itself gives.

A BPE merge joins neighbours into a piece of the vocabulary. Where no piece holds two neighbouring bytes, nothing is
ever merged across them: the text can be cut there, and what lies between two cuts gives the same ids wherever it
stands. So each distinct part is encoded once, which is 3 to 5 times as fast for English.

Unigram models are cut nowhere. SentencePiece adds up the scores of a whole text in 32-bit floats, and their rounding
decides between nearly equal ways to write a word: cut at words, 4 of 691 chapters of English books came out different.
Little would be won: SentencePiece takes 0.82 s for 25 MB of English, and to cut, count and join its 4.1 million words
0.3 s, without looking up or encoding any.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from trireme.tokenizer.tokenizer import Tokenizer

SPACE_SIGN = "\u2581"
"""Encodes a space in pieces."""
NUM_BYTES = 256
MAX_CACHED_BYTES = 48
"""Longer parts hardly ever come back."""
MAX_CACHED_PARTS = 1 << 17
"""Some 20 MB; then they are forgotten, and the frequent ones soon known again."""
MAX_CHUNK_BYTES = 1 << 23
"""Of text that is gone through at a time; it takes 12 times as much memory for a moment."""


class EncodedDocuments(NamedTuple):
    """The ids of some documents."""

    tokens: np.ndarray
    """[n]: of all documents, end to end."""
    lengths: np.ndarray
    """[num_documents] int64: how many of them each document has."""


class DocumentEncoder:
    """Encode documents, each followed by the tokenizer's end-of-document token.

    Args:
        dtype: integer type of ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, dtype: np.dtype[Any]) -> None:
        self._tokenizer, self._dtype = tokenizer, dtype
        self._end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self._model: Any = None
        self._parts: _PartEncoder | None = None
        if not tokenizer.is_huggingface:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
            joined = find_joined_bytes(tokenizer.path.read_bytes())
            if joined is not None:
                self._parts = _PartEncoder(self._model, joined, end=self._end, dtype=dtype)

    def encode(self, texts: list[str]) -> EncodedDocuments:
        """Encode some documents; without any, the ids are an empty array.

        Args:
            texts: any characters that UTF-8 can hold.
        """
        pieces, lengths = [np.empty(0, self._dtype)], [np.empty(0, np.int64)]
        for group in _group(texts):
            tokens, counts = self._encode_group(group)
            pieces.append(tokens)
            lengths.append(counts)
        return EncodedDocuments(np.concatenate(pieces), np.concatenate(lengths))

    def _encode_group(self, texts: list[str]) -> EncodedDocuments:
        # The sign itself means a space to SentencePiece, and cuts look at bytes.
        if self._parts is not None and not any(SPACE_SIGN in text for text in texts):
            return self._parts.encode(texts)
        each: Iterable[Any]
        if self._model is not None:
            each = self._model.encode(texts, num_threads=1, return_type="numpy")
        else:
            each = map(self._tokenizer.encode, texts)
        end = np.array(self._end, self._dtype)
        arrays = [array for ids in each for array in (np.asarray(ids, self._dtype), end)]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays)).reshape(-1, 2).sum(axis=1)
        return EncodedDocuments(np.concatenate(arrays), lengths)


def find_joined_bytes(content: bytes) -> np.ndarray | None:
    """Return which bytes a SentencePiece model joins.

    Args:
        content: of the model's file.
    Returns:
        [256 * 256] bool: whether some piece has byte i // 256 before byte i % 256. None where cuts could change ids:
        the model is no BPE model, changes the text before it encodes it, or has no ids for single bytes.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    is_plain = (
        trainer.model_type == trainer.BPE
        and trainer.byte_fallback
        and not normalizer.precompiled_charsmap
        and not normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
    )
    if not is_plain:
        return None
    joined = np.zeros((NUM_BYTES, NUM_BYTES), np.bool_)
    # Never within a character.
    joined[:, 0x80:0xC0] = True
    byte_pieces = sum(piece.type == piece.BYTE for piece in model.pieces)
    if byte_pieces != NUM_BYTES:
        return None
    for piece in model.pieces:
        if piece.type in (piece.NORMAL, piece.USER_DEFINED, piece.UNUSED):
            codes = np.frombuffer(piece.piece.replace(SPACE_SIGN, " ").encode("utf-8"), np.uint8)
            joined[codes[:-1], codes[1:]] = True
    return joined.reshape(-1)


def _group(texts: list[str]) -> Iterable[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= MAX_CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _PartEncoder:
    """Cuts texts where no piece joins two bytes, and encodes each distinct part once."""

    def __init__(self, model: Any, joined: np.ndarray, *, end: list[int], dtype: np.dtype[Any]) -> None:
        self._model, self._joined, self._dtype = model, joined, dtype
        self._end = end
        self._known: dict[bytes, list[int]] = {}

    def encode(self, texts: list[str]) -> EncodedDocuments:
        encoded = [text.encode("utf-8") for text in texts]
        ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
        data = b"".join(encoded)
        codes = np.frombuffer(data, np.uint8)
        is_start = np.empty(len(codes) + 1, np.bool_)
        is_start[1:-1] = ~self._joined[codes[:-1].astype(np.uint16) << 8 | codes[1:]]
        is_start[0] = True
        is_start[ends] = True
        offsets = np.flatnonzero(is_start).astype(np.int32)
        parts = pa.Array.from_buffers(
            pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        ).dictionary_encode()
        ids = self._encode_parts(parts.dictionary.to_pylist())
        # Documents end behind the part that ends at their last byte; an empty one has none.
        part_ends = np.searchsorted(offsets, ends)
        rows = np.insert(parts.indices.to_numpy(zero_copy_only=False).astype(np.int64), part_ends, len(ids))
        ids.append(self._end)
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), self._dtype, int(counts.sum()))
        starts = np.cumsum(counts) - counts
        row_counts = counts[rows]
        row_ends = np.cumsum(row_counts)
        places = np.arange(row_ends[-1]) + np.repeat(starts[rows] - row_ends + row_counts, row_counts)
        document_ends = row_ends[part_ends + np.arange(len(texts))]
        return EncodedDocuments(flat[places], np.diff(document_ends, prepend=0))

    def _encode_parts(self, parts: list[bytes]) -> list[list[int]]:
        known = self._known
        unknown = [part for part in parts if part not in known]
        new = dict(zip(unknown, self._model.encode(unknown, num_threads=1), strict=True)) if unknown else {}
        ids = [known.get(part) or new[part] for part in parts]
        if len(known) + len(new) > MAX_CACHED_PARTS:
            known.clear()
        known.update((part, each) for part, each in new.items() if len(part) <= MAX_CACHED_BYTES)
        return ids
