"""A SentencePiece model as a tokenizer of Hugging Face's `tokenizers` that gives the same ids.

What makes the ids equal:

- unigram: the best path through the same pieces and scores. Pieces that no text gives (control, byte and unused ones)
  are in the other library's lattice too, so they get a score that loses against their characters one by one. Where one
  of these characters has no piece, which scores less still, the text that spells them is cut around it: no other piece
  holds it, so no path is lost.
- BPE: SentencePiece joins any two neighbours whose join is a piece, best score first, leftmost first. So the merges are
  all ways to split a piece in two pieces, in the order of the scores. (The order of the splits of one piece, which
  SentencePiece does not have, made no difference on 72,000 random texts with 1,200 random vocabularies.)
- user-defined symbols: in a BPE model they are cut out of the text before anything else, longest first, as added tokens
  are; in a unigram model they are pieces of so high a score (`SYMBOL_SCORE`) that other ways do not pay.
- control symbols are special tokens.

SentencePiece adds up scores in 32 bits from the start of the text, the other library in 64, so that on long texts,
paths of nearly equal scores can differ.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

SPACE_MARK = "\u2581"
"""SentencePiece writes a space so."""

SYMBOL_SCORE = 0.1
"""Score of a user-defined symbol on a unigram path, for each of its bytes but the first. Measured with SentencePiece
0.2.3; in 0.2.0 it was -0.1 for the whole symbol, which decides otherwise between symbols that overlap."""

_TYPES = proto.ModelProto.SentencePiece


class Piece(NamedTuple):
    """An entry of a SentencePiece vocabulary."""

    name: str
    score: float
    kind: int
    """One of SentencePiece's types."""

    @property
    def is_normal(self) -> bool:
        """Return whether it was learnt from text."""
        return self.kind == _TYPES.NORMAL

    @property
    def is_symbol(self) -> bool:
        """Return whether it is a user-defined symbol."""
        return self.kind == _TYPES.USER_DEFINED

    @property
    def is_control(self) -> bool:
        """Return whether it is a control symbol."""
        return self.kind == _TYPES.CONTROL


class UnsupportedModelError(ValueError):
    """The model does something that the conversion does not."""


@dataclass(frozen=True, kw_only=True)
class ConvertedTokenizer:
    """A tokenizer, and the names of its marks."""

    tokenizer: tokenizers.Tokenizer
    unk_token: str
    bos_token: str | None
    eos_token: str | None
    special_tokens: list[str]
    """Control symbols other than begin and end."""
    symbols: list[str]
    """User-defined symbols."""


def convert_tokenizer(content: bytes) -> ConvertedTokenizer:
    """Convert a model file.

    Args:
        content: the .model file, which `Tokenizer` can load.
    Raises:
        UnsupportedModelError: it is no unigram or BPE model with byte fallback that takes text as it is.
    """
    model = proto.ModelProto.FromString(content)
    _check_supported(model)
    is_bpe = model.trainer_spec.model_type == proto.TrainerSpec.BPE
    pieces = [Piece(piece.piece, piece.score, piece.type) for piece in model.pieces]
    unknown = next(number for number, piece in enumerate(pieces) if piece.kind == _TYPES.UNKNOWN)
    symbols = [piece.name for piece in pieces if piece.is_symbol]
    if is_bpe:
        tokenizer = tokenizers.Tokenizer(_build_bpe(pieces, unknown=unknown))
    else:
        tokenizer = tokenizers.Tokenizer(_build_unigram(pieces, unknown=unknown))
        if cuts := _find_cuts(pieces):
            tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(cuts), behavior="isolated")
    tokenizer.normalizer = normalizers.Replace(" ", SPACE_MARK)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    control = [piece.name for number, piece in enumerate(pieces) if piece.is_control or number == unknown]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control])
    if is_bpe:
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in symbols])
    marks = {
        key: pieces[number].name if 0 <= number < len(pieces) and pieces[number].is_control else None
        for key, number in (("bos", model.trainer_spec.bos_id), ("eos", model.trainer_spec.eos_id))
    }
    return ConvertedTokenizer(
        tokenizer=tokenizer,
        unk_token=pieces[unknown].name,
        bos_token=marks["bos"],
        eos_token=marks["eos"],
        special_tokens=[name for name in control if name not in (pieces[unknown].name, *marks.values())],
        symbols=symbols,
    )


def _check_supported(model: proto.ModelProto) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    faults = {
        "is neither a unigram nor a BPE model": trainer.model_type
        not in (proto.TrainerSpec.UNIGRAM, proto.TrainerSpec.BPE),
        "has no byte fallback": not trainer.byte_fallback,
        f"normalizes text ({normalizer.name})": bool(normalizer.precompiled_charsmap),
        "puts a space before the text (add_dummy_prefix)": normalizer.add_dummy_prefix,
        "removes spaces (remove_extra_whitespaces)": normalizer.remove_extra_whitespaces,
        "does not write spaces as U+2581 (escape_whitespaces)": not normalizer.escape_whitespaces,
        "puts spaces behind words (treat_whitespace_as_suffix)": trainer.treat_whitespace_as_suffix,
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    if found:
        raise UnsupportedModelError("; ".join(found))


def _build_unigram(pieces: list[Piece], *, unknown: int) -> models.Unigram:
    scores = {piece.name: piece.score for piece in pieces if piece.is_normal}
    longest = max(len(piece.name) for piece in pieces)
    lowest = (longest + 1) * min(scores.values(), default=0.0) - 1
    scores |= {piece.name: SYMBOL_SCORE * (len(piece.name.encode()) - 1) for piece in pieces if piece.is_symbol}
    return models.Unigram(
        [(piece.name, scores.get(piece.name, lowest)) for piece in pieces], unk_id=unknown, byte_fallback=True
    )


def _find_cuts(pieces: list[Piece]) -> str:
    """Return a pattern for the first character without a piece wherever a text spells a hidden piece that has such."""
    covered = {piece.name for piece in pieces if piece.is_normal}
    ends: dict[tuple[str, str], list[str]] = defaultdict(list)
    for piece in pieces:
        name = piece.name
        place = next((place for place, character in enumerate(name) if character not in covered), None)
        if not (piece.is_normal or piece.is_symbol) and place is not None:
            ends[name[:place], name[place]].append(name[place + 1 :])
    return "|".join(
        (f"(?<={re.escape(before)})" if before else "")
        + re.escape(character)
        + f"(?={'|'.join(map(re.escape, behind))})"
        for (before, character), behind in ends.items()
    )


def _build_bpe(pieces: list[Piece], *, unknown: int) -> models.BPE:
    normal = {piece.name: piece.score for piece in pieces if piece.is_normal}
    merges = [
        (name[:end], name[end:])
        for name in sorted(normal, key=lambda name: -normal[name])
        for end in range(1, len(name))
        if name[:end] in normal and name[end:] in normal
    ]
    return models.BPE(
        {piece.name: number for number, piece in enumerate(pieces)},
        merges,
        unk_token=pieces[unknown].name,
        fuse_unk=True,
        byte_fallback=True,
    )
