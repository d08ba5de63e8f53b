"""Write single tokens as text and as bytes, for reports of log-probabilities."""

import functools
import re

from trireme.tokenizer.tokenizer import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def token_text(token: int, tokenizer: Tokenizer) -> str:
    """Return the text of one token: the name of a special one, and U+FFFD for a part of a character."""
    name = tokenizer.token_name(token)
    if name is not None and name in tokenizer.special_tokens:
        return name
    return tokenizer.decode([token])


def token_bytes(token: int, tokenizer: Tokenizer) -> list[int]:
    """Return the UTF-8 bytes of one token, also where they are a part of a character."""
    name = tokenizer.token_name(token) or ""
    if token in tokenizer.byte_ids:
        piece = _BYTE_PIECE.fullmatch(name)
        if piece:
            return [int(piece[1], 16)]
        table = _byte_level_table()
        if all(character in table for character in name):
            return [table[character] for character in name]
    return list(token_text(token, tokenizer).encode())


@functools.cache
def _byte_level_table() -> dict[str, int]:
    """Return the byte of each character of byte-level tokens.

    Source: GPT-2's `bytes_to_unicode`: visible characters of Latin-1 stand for themselves, other bytes for the
    characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in visible}
    others = [byte for byte in range(256) if byte not in set(visible)]
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}
