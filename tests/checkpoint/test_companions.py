"""The chat template and generation defaults of a model are found in its checkpoint, and stay with its runs."""

import json
from pathlib import Path

import pytest

from tests.trireme.tokenizer.test_tokenizer import train_byte_level
from trainer.checkpoint.companions import read_generation_config
from trainer.checkpoint.tokenizer import copy_tokenizer
from trireme.errors import ConfigError
from trireme.tokenizer.model_files import read_chat_template
from trireme.tokenizer.tokenizer import Tokenizer


def test_the_template_file_precedes_the_one_in_the_tokenizer_configuration(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": [{"name": "tool_use", "template": "a"}]}))
    assert read_chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path) == "b"
    config.write_text(json.dumps({"chat_template": "c"}))
    assert read_chat_template(tmp_path) == "c"
    (tmp_path / "chat_template.jinja").write_text("d", encoding="utf-8")
    assert read_chat_template(tmp_path) == "d"


def test_generation_defaults(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert read_generation_config(tmp_path) == {"eos_token_id": [1, 2]}
    for damaged in ("[1]", "{"):
        (tmp_path / "generation_config.json").write_text(damaged)
        with pytest.raises(ConfigError, match="generation_config.json"):
            read_generation_config(tmp_path)


def test_a_run_copies_them_with_its_tokenizer(tmp_path: Path) -> None:
    train_byte_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
    (tmp_path / "model.safetensors").write_bytes(b"other")
    copy = copy_tokenizer(Tokenizer(tmp_path / "tokenizer.json"))
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(copy.files)
    assert "model.safetensors" not in copy.files
