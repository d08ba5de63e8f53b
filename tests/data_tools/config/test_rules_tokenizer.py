"""Every rule of data_prep.tokenizer, by the message that a user reads."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from data_tools.config.rules import validate
from data_tools.config.schema import DataPrepConfig, LanguageConfig, TokenizerConfig
from data_tools.stages.preparation import load_task
from tests.data_tools.conftest import Prepared
from trireme.errors import ConfigError


def find_messages(*, identify: bool = False, **fields: Any) -> list[str]:
    config = DataPrepConfig(
        output_dir=".",
        sources=[],
        language=LanguageConfig(identify=identify),
        tokenizer=TokenizerConfig(**fields),
    )
    return [str(violation) for violation in validate(config) if ".tokenizer." in str(violation)]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    model = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    model.add_special_tokens(["<end>", "<pad>"])
    model.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_wrong_types_and_sizes_are_told_once() -> None:
    (message,) = find_messages(vocab_multiple=64000)
    assert "vocab_multiple: must be at most 32000, the largest size of data_prep.tokenizer.vocab_size=auto" in message
    for value, fix in (("1000.5", "Use 1000 or 1001"), ("many", "Use an integer or auto"), ("true", "got a boolean")):
        with pytest.raises(ConfigError) as caught:
            load_task(["data_prep=custom", f"data_prep.tokenizer.vocab_size={value}", "data_prep.output_dir=."])
        (message,) = [str(v) for v in caught.value.violations if "vocab_size" in str(v)]
        assert "expected an integer or auto" in message and fix in message


def test_what_is_right() -> None:
    assert find_messages() == []
    assert find_messages(identify=True, sampling_exponent=0.3) == []
    fields = {
        "special_tokens": ["<|im_start|>", "<|im_end|>"],
        "user_defined_symbols": ["—"],
        "num_reserved_tokens": 64,
    }
    assert find_messages(**fields, split_digits=False) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sampling_exponent": 0.3}, "sampling_exponent: requires the language of each document (got 0.3). Set"),
        ({"sampling_exponent": 1.5}, "sampling_exponent: must be at least 0 and at most 1 (got 1.5)"),
        ({"num_reserved_tokens": -1}, "num_reserved_tokens: must be at least 0"),
        (
            {"special_tokens": ["</s>"]},
            "special_tokens: reserved: every trained tokenizer already has this token (got </s>)",
        ),
        (
            {"special_tokens": ["<0x41>"]},
            "special_tokens: reserved: every trained tokenizer already has this token (got <0x41>)",
        ),
        (
            {"special_tokens": ["<|reserved_3|>"], "num_reserved_tokens": 1},
            "special_tokens: reserved: every trained tokenizer already has this token (got <|reserved_3|>)",
        ),
        ({"special_tokens": ["<a b>"]}, "special_tokens: must not be empty or contain a space"),
        ({"user_defined_symbols": [""]}, "user_defined_symbols: must not be empty or contain a space"),
        (
            {"special_tokens": ["x"]},
            "special_tokens: must not be a single character, since text could not contain it (got x). Choose",
        ),
        (
            {"special_tokens": ["<x>"], "user_defined_symbols": ["<x>"]},
            "user_defined_symbols: listed more than once (got <x>). List it once.",
        ),
        (
            {"vocab_size": 384, "num_reserved_tokens": 125},
            "special_tokens: the vocabulary has room for only 124 tokens, reserved tokens and user-defined symbols"
            " included (got 125 tokens)",
        ),
        (
            {"vocab_size": 1000},
            "vocab_size: must be a multiple of data_prep.tokenizer.vocab_multiple=128 (got 1000). Use 896 or",
        ),
        ({"eos_token": "<end>"}, "eos_token: requires an existing tokenizer.json: a trained tokenizer always ends"),
    ],
)
def test_what_is_wrong(fields: dict[str, Any], expected: str) -> None:
    assert any(f"data_prep.tokenizer.{expected}" in message for message in find_messages(**fields)), find_messages(
        **fields
    )


def test_the_end_of_a_document_must_be_known(given: Path) -> None:
    (message,) = find_messages(path=str(given))
    assert "data_prep.tokenizer.path: no end-of-document token found" in message
    assert "Set data_prep.tokenizer.eos_token; its special tokens are: <end>, <pad>." in message
    assert find_messages(path=str(given), eos_token="<end>") == []
    (message,) = find_messages(path=str(given), eos_token="<stop>")
    assert f"eos_token: no such token in {given} (got <stop>). Use one of its special tokens: <end>" in message
    (given.parent / "tokenizer_config.json").write_text('{"eos_token": "<pad>"}')
    assert find_messages(path=str(given)) == []


def test_a_given_tokenizer_stays_as_it_is(given: Path, prepared: Prepared) -> None:
    fields = {"special_tokens": ["<x>"], "user_defined_symbols": ["--"], "num_reserved_tokens": 3}
    messages = find_messages(path=str(given), eos_token="<end>", **fields)
    assert len(messages) == 3
    assert all("an existing tokenizer gets no new tokens" in message for message in messages)
    model = prepared.output / "tokenizer.model"
    assert find_messages(path=str(model)) == []
    (message,) = find_messages(path=str(model), eos_token="</s>")
    assert f"eos_token: cannot be set for {model}: a SentencePiece model defines its own" in message
