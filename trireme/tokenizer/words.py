"""Find out which tokens begin a word and which one hides others, for masked language models."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer

_SPACE_MARKS = ("\u2581", "\u0120", "\u010a", "\u0109")
"""What stands for a space, line break or tab at the beginning of a piece: SentencePiece's mark, and GPT-2's bytes."""
_CONTINUATION = "##"
"""What begins a piece of WordPiece that continues a word."""


MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
"""Names of the mask token, in the order in which a tokenizer is searched for them."""


def find_mask_token(tokenizer: Tokenizer) -> int | None:
    """Return the id of the tokenizer's mask token; None when there is none."""
    return next((token for name in MASK_NAMES if (token := tokenizer.token_id(name)) is not None), None)


class WordStarts:
    """Tell where words begin in token ids.

    A piece begins a word if it carries the tokenizer's mark of a space or of a word's beginning, or if it or the piece
    before it is no letter or digit. In scripts without spaces between words (Chinese, Japanese, Thai and others) each
    piece is a word of its own, unless a list of words joins pieces.

    Args:
        tokenizer: of the ids.
        word_list: words of scripts without spaces; pieces that together spell a listed word are one word (the longest
            match from the left, as in jieba's and MMSEG's dictionaries).
    """

    def __init__(self, tokenizer: Tokenizer, *, word_list: Sequence[str] = ()) -> None:
        names = [tokenizer.token_name(token) or "" for token in range(tokenizer.vocab_size)]
        is_wordpiece = any(name.startswith(_CONTINUATION) for name in names)
        special = set(tokenizer.special_tokens.values())
        texts = [tokenizer.decode([token]).strip() for token in range(tokenizer.vocab_size)]
        special, parts = set(tokenizer.special_tokens.values()), tokenizer.byte_ids
        # A byte that alone is no character is a part of a word.
        self._begins = np.array(
            [
                token in special or (token not in parts and _begins_word(name, text, is_wordpiece=is_wordpiece))
                for token, (name, text) in enumerate(zip(names, texts, strict=True))
            ]
        )
        self._ends = np.array(
            [token not in parts and not is_wordpiece and not _is_letter(text[-1:]) for token, text in enumerate(texts)]
        )
        """Pieces after which a word begins whatever follows: spaces and punctuation."""
        self._words = frozenset(word for word in word_list if len(word) > 1)
        self._longest = max((len(word) for word in self._words), default=0)
        self._texts = [text.removeprefix(_CONTINUATION) for text in texts]

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return whether each of the tokens begins a word: [s] integers to [s] bool; the first always does."""
        begins = self._begins[tokens]
        begins[:1] = True
        begins[1:] |= self._ends[tokens[:-1]]
        if self._words:
            self._join(tokens, begins)
        return begins

    def _join(self, tokens: np.ndarray, begins: np.ndarray) -> None:
        """Clear the beginnings of pieces that continue a listed word."""
        texts = [self._texts[token] for token in tokens.tolist()]
        place = 0
        while place < len(texts):
            end, spelled, longest = place, "", place + 1
            while end < len(texts) and _has_no_spaces(texts[end]) and len(spelled) < self._longest:
                spelled += texts[end]
                end += 1
                if spelled in self._words:
                    longest = end
            begins[place + 1 : longest] = False
            place = longest


def read_word_list(path: str | Path, *, setting: str) -> list[str]:
    """Read words, one a line, each followed by anything after a space (as jieba's dictionaries have counts).

    Raises:
        ConfigError: the file cannot be read, or holds no word.
    """
    try:
        words = [line.split()[0] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        violation = Violation(
            path=setting, value=path, message=f"cannot be read: {reason}", fix="Use a UTF-8 file with one word a line."
        )
        raise ConfigError([violation]) from error
    if not words:
        raise ConfigError(
            [Violation(path=setting, value=path, message="is empty", fix="Use one word a line, or null.")]
        )
    return words


def _begins_word(name: str, text: str, *, is_wordpiece: bool) -> bool:
    if name.startswith(_CONTINUATION) and len(name) > len(_CONTINUATION):
        return False
    if is_wordpiece or name.startswith(_SPACE_MARKS) or not text:
        return True
    return not _is_letter(text[0]) or _has_no_spaces(text[0])


def _is_letter(character: str) -> bool:
    """Return whether a character is a letter, digit or vowel sign; false for none."""
    return bool(character) and (character.isalnum() or unicodedata.category(character).startswith("M"))


_SCRIPTS_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _has_no_spaces(text: str) -> bool:
    """Return whether a text is written in a script that puts no spaces between words."""
    return bool(text) and all(unicodedata.name(character, "").startswith(_SCRIPTS_WITHOUT_SPACES) for character in text)
