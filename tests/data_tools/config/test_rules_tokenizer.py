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
    assert (
        "vocab_multiple=64000 is more than the 32000 pieces that data_prep.tokenizer.vocab_size=auto takes" in message
    )
    for value, fix in (("1000.5", "use 1000 or 1001"), ("many", "write an integer or auto"), ("true", "write an int")):
        with pytest.raises(ConfigError) as caught:
            load_task(["data_prep=custom", f"data_prep.tokenizer.vocab_size={value}", "data_prep.output_dir=."])
        (message,) = [str(v) for v in caught.value.violations if "vocab_size" in str(v)]
        assert "but the field takes an integer or auto" in message and fix in message


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
        ({"sampling_exponent": 0.3}, "sampling_exponent=0.3 balances languages, and they are not identified; set"),
        ({"sampling_exponent": 1.5}, "sampling_exponent=1.5 is not at least 0 and at most 1"),
        ({"num_reserved_tokens": -1}, "num_reserved_tokens=-1 is not at least 0"),
        ({"special_tokens": ["</s>"]}, "special_tokens=</s> cannot be a special token: every tokenizer"),
        ({"special_tokens": ["<0x41>"]}, "special_tokens=<0x41> cannot be a special token: every tokenizer"),
        (
            {"special_tokens": ["<|reserved_3|>"], "num_reserved_tokens": 1},
            "special_tokens=<|reserved_3|> cannot be a special token: every tokenizer",
        ),
        ({"special_tokens": ["<a b>"]}, "special_tokens='<a b>' cannot be a special token: it is empty or holds"),
        ({"user_defined_symbols": [""]}, "user_defined_symbols='' cannot be a special token: it is empty or holds"),
        ({"special_tokens": ["x"]}, "special_tokens=x is a single character, which texts must be able to have; choose"),
        (
            {"special_tokens": ["<x>"], "user_defined_symbols": ["<x>"]},
            "user_defined_symbols=<x> is named more than once; name it once",
        ),
        (
            {"vocab_size": 384, "num_reserved_tokens": 125},
            "special_tokens=125 tokens are, with the reserved ones and the user-defined symbols, more than the"
            " vocabulary has room for (124)",
        ),
        ({"vocab_size": 1000}, "vocab_size=1000 is no multiple of data_prep.tokenizer.vocab_multiple=128; use 896 or"),
        ({"eos_token": "<end>"}, "eos_token=<end> is for a tokenizer.json that is given; a tokenizer that is trained"),
    ],
)
def test_what_is_wrong(fields: dict[str, Any], expected: str) -> None:
    assert any(f"data_prep.tokenizer.{expected}" in message for message in find_messages(**fields)), find_messages(
        **fields
    )


def test_the_end_of_a_document_must_be_known(given: Path) -> None:
    (message,) = find_messages(path=str(given))
    assert f"data_prep.tokenizer.path={given} does not say which token ends a document" in message
    assert "name it with data_prep.tokenizer.eos_token; its special tokens are: <end>, <pad>" in message
    assert find_messages(path=str(given), eos_token="<end>") == []
    (message,) = find_messages(path=str(given), eos_token="<stop>")
    assert (
        f"data_prep.tokenizer.eos_token=<stop> is no token of {given}; use one of its special tokens: <end>" in message
    )
    (given.parent / "tokenizer_config.json").write_text('{"eos_token": "<pad>"}')
    assert find_messages(path=str(given)) == []


def test_a_given_tokenizer_stays_as_it_is(given: Path, prepared: Prepared) -> None:
    fields = {"special_tokens": ["<x>"], "user_defined_symbols": ["--"], "num_reserved_tokens": 3}
    messages = find_messages(path=str(given), eos_token="<end>", **fields)
    assert len(messages) == 3
    assert all("can only be added to a tokenizer that is trained here" in message for message in messages)
    model = prepared.output / "tokenizer.model"
    assert find_messages(path=str(model)) == []
    (message,) = find_messages(path=str(model), eos_token="</s>")
    assert f"eos_token=</s> cannot be chosen: {model} is a SentencePiece model" in message
