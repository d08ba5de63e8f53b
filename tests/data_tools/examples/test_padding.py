"""The token that fills rows up, and what is said about it."""

import json
from pathlib import Path

import pytest

from data_tools.examples.padding import choose_padding
from tests.trireme.examples.small_tokenizers import save_byte_tokenizer
from trireme.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("pad_token", "end", "token", "reason"),
    [
        ("<s>", "<|im_end|>", "<s>", "the tokenizer's pad_token <s>"),
        # As in SmolLM2 Instruct, in conversations and in texts that classes are given to.
        (
            "<|im_end|>",
            "<|im_end|>",
            "<|endoftext|>",
            "<|endoftext|>, with which other models pad too: the tokenizer's pad_token <|im_end|> ends answers, and so"
            " is a target",
        ),
        (
            "</s>",
            None,
            "<|endoftext|>",
            "<|endoftext|>, with which other models pad too: the tokenizer's pad_token </s> ends texts",
        ),
        (
            "[PAD]",
            None,
            "<|endoftext|>",
            "<|endoftext|>, with which other models pad too: the tokenizer's pad_token [PAD] is none of its tokens",
        ),
        (
            None,
            None,
            "<|endoftext|>",
            "<|endoftext|>, with which other models pad too: the tokenizer has no pad_token",
        ),
    ],
)
def test_the_reason_is_that_of_the_choice(
    pad_token: str | None, end: str | None, token: str, reason: str, tmp_path: Path
) -> None:
    path = save_byte_tokenizer(tmp_path, **({} if pad_token is None else {"pad_token": pad_token}))
    # <|endoftext|> is a token of some families only: here it takes the place of another marker.
    path.write_text(path.read_text().replace("<|im_start|>", "<|endoftext|>"))
    assert "<|endoftext|>" in json.loads(path.read_text())["model"]["vocab"]
    tokenizer = Tokenizer(path)
    ends = frozenset() if end is None else frozenset({tokenizer.token_id(end)})
    padding = choose_padding(tokenizer, end_tokens=ends)
    assert (tokenizer.token_name(padding.token), padding.reason) == (token, reason)
