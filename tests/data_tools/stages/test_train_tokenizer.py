"""A trained tokenizer writes every text, gives it back, and depends on text and settings alone."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.config.schema import LARGEST_AUTO_VOCAB_SIZE, TokenizerConfig
from data_tools.errors import PreparationError
from data_tools.stages import train_tokenizer as train_tokenizer_module
from data_tools.stages.cache import Stage
from data_tools.stages.train_tokenizer import (
    MAX_SENTENCE_BYTES,
    SampledBatch,
    _serve_training,
    split_lines,
    train_tokenizer,
    trainer_options,
)
from data_tools.tokenizer.sample_texts import OWN_PROSE
from data_tools.work.progress import Stages
from data_tools.work.spool import CleanDocument, SpoolWriter, to_plain_tuples
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import make_text
from trireme.tokenizer.tokenizer import Tokenizer

SPACE_MARK = "\u2581"
"""SentencePiece writes a space so; in a text of its own it comes back as a space."""


def train(directory: Path, texts: list[str], **fields: object) -> Path:
    directory.mkdir()
    documents = [CleanDocument(record=0, offset=None, id="", url="", title="", text=text) for text in texts]
    blob_ref = SpoolWriter(directory, spool="0").append(to_plain_tuples(documents))
    batch = SampledBatch(blob_ref, np.ones(len(texts), np.bool_))
    config = TokenizerConfig(**{"vocab_size": 384, "num_threads": 2, **fields})  # type: ignore[arg-type]
    target = directory / "tokenizer.model"
    stages = Stages(titles=tuple(Stage), mode="off")
    train_tokenizer([batch], config=config, directory=directory, target=target, stages=stages)
    return target


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_equal_text_and_settings_give_equal_models(model_type: str, tmp_path: Path) -> None:
    texts = [make_text(seed) for seed in range(60)]
    fields = {"special_tokens": ["<|user|>", 'a,b"c'], "user_defined_symbols": ["==="], "num_reserved_tokens": 2}
    models = [train(tmp_path / name, texts, model_type=model_type, **fields) for name in "ab"]
    assert models[0].read_bytes() == models[1].read_bytes()
    tokenizer = Tokenizer(models[0])
    assert tokenizer.vocab_size == 384
    special = ["<|user|>", 'a,b"c', "<|reserved_0|>", "<|reserved_1|>"]
    assert list(tokenizer.special_tokens) == ["<s>", "</s>", *special]
    for name in special:
        assert len(tokenizer.encode(name)) > 1, "what a text spells is no special token"
        assert tokenizer.encode_with_special(name) == [tokenizer.token_id(name)]
    symbol = tokenizer.token_id("===")
    assert symbol in tokenizer.encode("a===b")
    pieces = models[0].with_suffix(".vocab").read_text(encoding="utf-8").splitlines()
    assert [piece.split("\t")[0] for piece in pieces[:8]] == ["<unk>", "<s>", "</s>", *special, "==="]
    assert len(pieces) == 384


@pytest.mark.parametrize("split_digits", [True, False])
def test_digits(split_digits: bool, tmp_path: Path) -> None:
    texts = [f"{make_text(seed)} In 2024 it was 2024." for seed in range(60)]
    path = train(tmp_path / "model", texts, model_type="bpe", split_digits=split_digits, vocab_size=512)
    pieces = [line.split("\t")[0] for line in path.with_suffix(".vocab").read_text(encoding="utf-8").splitlines()]
    longest = max(sum(character.isdigit() for character in piece) for piece in pieces if not piece.startswith("<0x"))
    assert (longest == 1) == split_digits


def serve_deadly_training(connection: Any, number: int, *arguments: Any) -> None:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    _serve_training(connection, number, *arguments)


def test_a_killed_training_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [make_text(seed) for seed in range(60)]
    models = [train(tmp_path / "calm", texts)]
    monkeypatch.setattr(train_tokenizer_module, "_serve_training", serve_deadly_training)
    models.append(train(tmp_path / "deadly", texts))
    assert models[0].read_bytes() == models[1].read_bytes()
    assert "was killed (SIGKILL) while processing the training text; probably out of memory" in caplog.text


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE_MARK)))
def test_every_text_comes_back_and_nothing_is_unknown(prepared: Prepared, text: str) -> None:
    tokenizer = Tokenizer(prepared.output / "tokenizer.model")
    ids = tokenizer.encode(text)
    assert 0 not in ids
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text


@given(text=st.text(st.sampled_from("ab \n\u732b"), max_size=40), times=st.integers(1, 400))
def test_lines_keep_all_that_is_to_be_learnt_from(text: str, times: int) -> None:
    lines = list(split_lines(text * times))
    assert all(len(line.encode()) <= MAX_SENTENCE_BYTES and line.strip() for line in lines)
    assert "".join(lines).replace(" ", "") == (text * times).replace(" ", "").replace("\n", "")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_auto_takes_as_many_pieces_as_the_text_gives(
    model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [make_text(seed) for seed in range(60)]
    models = [train(tmp_path / name, texts, model_type=model_type, vocab_size="auto") for name in "ab"]
    assert models[0].read_bytes() == models[1].read_bytes()
    size = Tokenizer(models[0]).vocab_size
    assert 260 < size < LARGEST_AUTO_VOCAB_SIZE and size % 128 == 0
    assert f"vocab_size=auto: the tokenizer has only {size} pieces, all that the text yields" in caplog.text
    with pytest.raises(
        PreparationError, match=rf"too large for the text, which yields at most \d+ pieces \(got {size + 128}\)"
    ):
        train(tmp_path / "larger", texts, model_type=model_type, vocab_size=size + 128)


@pytest.mark.parametrize(("multiple", "size"), [(128, 32000), (7, 31997), (1, 32000), (32000, 32000)])
def test_auto_asks_for_the_largest_number_first(multiple: int, size: int) -> None:
    config = TokenizerConfig(vocab_multiple=multiple)
    assert config.vocab_size == "auto"
    assert trainer_options(config)["vocab_size"] == size


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("text", ["a short text", OWN_PROSE["zh"]])
def test_auto_gives_up_the_multiple_where_a_short_text_needs_it(model_type: str, text: str, tmp_path: Path) -> None:
    path = train(tmp_path / "model", [text], model_type=model_type, vocab_size="auto")
    tokenizer = Tokenizer(path)
    assert tokenizer.vocab_size > 260
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_that_is_too_short_for_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match="The text is too short to train a tokenizer: it yields only") as caught:
        train(tmp_path / "model", ["a text"], vocab_size=384)
    assert "data_prep.tokenizer.path" in str(caught.value)
