"""The names under which a tokenizer is published, and what is published with it."""

import json
from pathlib import Path

import pytest
import tokenizers

from data_tools.config.schema import TokenizerConfig
from data_tools.tokenizer.files import TOKENIZER_NAMES, describe_tokenizer, find_tokenizer, install_tokenizer
from tests.data_tools.conftest import Prepared
from trireme.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A tokenizer.json that ends documents with <end>, a name that nobody guesses."""
    directory = tmp_path / "given"
    directory.mkdir()
    model = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    model.add_special_tokens(["<end>", "<s>"])
    model.save(str(directory / "some_name.json"))
    return directory / "some_name.json"


def install(path: Path, target: Path, *, eos_token: str | None = None) -> Tokenizer:
    target.mkdir()
    installed = install_tokenizer(path, target, eos_token=eos_token)
    assert find_tokenizer(target) == installed
    assert {file.name for file in target.iterdir()} <= set(TOKENIZER_NAMES)
    assert installed.read_bytes() == path.read_bytes()
    return Tokenizer(installed)


def test_a_sentencepiece_model(prepared: Prepared, tmp_path: Path) -> None:
    given = prepared.output / "tokenizer.model"
    tokenizer = install(given, tmp_path / "out")
    assert tokenizer.path == tmp_path / "out" / "tokenizer.model"
    assert describe_tokenizer(TokenizerConfig(path=str(given))) == {"sha256": tokenizer.sha256}


def test_the_end_that_is_named_is_published(given: Path, tmp_path: Path) -> None:
    assert Tokenizer(given).eos_id is None
    tokenizer = install(given, tmp_path / "out", eos_token="<end>")
    assert tokenizer.path.name == "tokenizer.json"
    assert (tokenizer.eos_id, tokenizer.bos_id) == (3, 4)


def test_the_file_beside_is_published_with_it(given: Path, tmp_path: Path) -> None:
    config = {"eos_token": "<s>", "chat_template": "{{ messages }}", "tokenizer_class": "Other"}
    (given.parent / "tokenizer_config.json").write_text(json.dumps(config))
    assert install(given, tmp_path / "a").eos_id == 4
    assert install(given, tmp_path / "b", eos_token="<end>").eos_id == 3
    published = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert published == {**config, "eos_token": "<end>", "bos_token": "<s>"}


def test_another_end_makes_another_tokenizer(given: Path) -> None:
    config = TokenizerConfig(path=str(given), eos_token="<end>")
    description = describe_tokenizer(config)
    assert json.loads(json.dumps(description)) == description
    assert describe_tokenizer(config) == description
    assert describe_tokenizer(TokenizerConfig(path=str(given), eos_token="<s>")) != description
    (given.parent / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    assert describe_tokenizer(config) != description


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    assert find_tokenizer(tmp_path) is None
