"""The tokenizer wrapper and streaming decoding."""

import hashlib
import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from trainer.common.errors import ConfigError
from trainer.data.tokenizer import IncrementalDecoder, Tokenizer

SENTENCES = [
    f"The {word} of {number} oars sails to port {number * 7}."
    for word in ("trireme", "galley", "bireme", "ship", "crew", "helm")
    for number in range(60)
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=400, model_type=request.param,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


def test_properties(tokenizer: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert tokenizer.vocab_size == processor.get_piece_size() > 256
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.sha256 == hashlib.sha256(tokenizer.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "text", ["The trireme of 9 oars", "  two  spaces ", "三段櫂船", "a\nb\tc", "🚣 rows 🚣🏽‍♀️", ""]
)
def test_encode_and_decode(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["The trireme of 9 oars", "  two  spaces ", "三段櫂船 and 🚣 rows", "🚣🏽‍♀️"])
def test_streaming_gives_the_text_as_it_becomes_whole(tokenizer: Tokenizer, text: str) -> None:
    decoder, pieces = IncrementalDecoder(tokenizer), []
    for token in tokenizer.encode(text):
        pieces.append(decoder.push(token))
        assert "\ufffd" not in pieces[-1]
        assert text.startswith("".join(pieces))
    assert "".join(pieces) == text
    assert decoder.finish() == ""


@given(data=st.data())
def test_streaming_any_ids_joins_to_the_text_of_all(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(3, tokenizer.vocab_size - 1), max_size=60))
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_streaming_after_a_prompt_keeps_the_space_between(tokenizer: Tokenizer) -> None:
    prompt, full = tokenizer.encode("The ship"), tokenizer.encode("The ship of 9")
    assert full[: len(prompt)] == prompt
    decoder = IncrementalDecoder(tokenizer, prompt=prompt)
    assert "".join(decoder.push(token) for token in full[len(prompt) :]) == " of 9"


def test_an_unfinished_character_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("oars 🚣")[:-1]
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(decoder.push(token) for token in ids) == "oars "
    assert set(decoder.finish()) == {"\ufffd"}


def test_control_tokens_leave_no_trace(tokenizer: Tokenizer) -> None:
    assert tokenizer.bos_id is not None and tokenizer.eos_id is not None
    ids = [tokenizer.bos_id, *tokenizer.encode("The crew"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "The crew"
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(decoder.push(token) for token in ids) + decoder.finish() == "The crew"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.path=.*gone\.model no such file"):
        Tokenizer(tmp_path / "gone.model")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\x10" + bytes(40)])
def test_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.path=.*bad\.model is no SentencePiece model"):
        Tokenizer(tmp_path / "bad.model")
