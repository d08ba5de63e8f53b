"""The tokenizer wrapper and streaming decoding."""

import hashlib
import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from trireme.errors import ConfigError
from trireme.tokenizer.tokenizer import IncrementalDecoder, Tokenizer

SENTENCES = [
    f"The {word} of {number} oars sails to port {number * 7}."
    for word in ("trireme", "galley", "bireme", "ship", "crew", "helm")
    for number in range(60)
]


MARKERS = ["<|user|>", "<|user|>x", "</s>"]
"""Special tokens of all tokenizers here; one begins with another."""


def train_sentencepiece(directory: Path, model_type: str) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=400, model_type=model_type,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, control_symbols=MARKERS[:2],
    )  # fmt: skip
    path = directory / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def train_byte_level(directory: Path) -> Path:
    """Train a tokenizer of the kind of GPT-2, Llama 3 and Qwen."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<s>", *MARKERS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    model.train_from_iterator(SENTENCES, trainer)
    path = directory / "tokenizer.json"
    model.save(str(path))
    return path


@pytest.fixture(scope="module", params=["bpe", "unigram", "byte-level"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte-level":
        return Tokenizer(train_byte_level(directory))
    return Tokenizer(train_sentencepiece(directory, request.param))


def test_sentencepiece_properties(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train_sentencepiece(tmp_path, "bpe"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert tokenizer.vocab_size == processor.get_piece_size() > 256
    assert (tokenizer.unknown_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.byte_ids == {processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    assert not tokenizer.is_huggingface
    assert tokenizer.read_config() == {}


def test_huggingface_properties(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train_byte_level(tmp_path))
    assert tokenizer.is_huggingface
    assert tokenizer.vocab_size == 400
    assert (tokenizer.unknown_id, tokenizer.bos_id, tokenizer.eos_id) == (None, 0, 3)
    # Of the 256 letters that stand for bytes 128 are ASCII, whole characters.
    assert len(tokenizer.byte_ids) == 128


def test_names(tokenizer: Tokenizer) -> None:
    assert tokenizer.sha256 == hashlib.sha256(tokenizer.path.read_bytes()).hexdigest()
    assert set(tokenizer.special_tokens) == {"<s>", *MARKERS}
    for name, token in tokenizer.special_tokens.items():
        assert tokenizer.token_id(name) == token
        assert tokenizer.token_name(token) == name
    assert tokenizer.token_id("<|nobody|>") is None
    assert tokenizer.token_name(tokenizer.vocab_size) is None


def test_no_text_gives_special_tokens(tokenizer: Tokenizer) -> None:
    text = "</s>The ship<|user|>x of <|user|> 9<s>"
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text


def test_a_program_may_write_special_tokens(tokenizer: Tokenizer) -> None:
    special = tokenizer.special_tokens
    ids = tokenizer.encode_with_special("<|user|>The ship<|user|>x of 9</s>")
    if tokenizer.is_huggingface:  # in SentencePiece a space is put before each part of these models
        rest = [*tokenizer.encode("The ship"), special["<|user|>x"], *tokenizer.encode(" of 9"), special["</s>"]]
        assert ids == [special["<|user|>"], *rest]
    assert [token for token in ids if token in special.values()] == [special[name] for name in MARKERS]
    assert tokenizer.decode(ids).replace(" ", "") == "Theshipof9"
    assert tokenizer.encode("</s>") == tokenizer.encode("</s>") != tokenizer.encode_with_special("</s>")


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
    ids = data.draw(st.lists(st.integers(4, tokenizer.vocab_size - 1), max_size=60))
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
    with pytest.raises(ConfigError, match=r"tokenizer\.path: no such file \(got .*gone\.model\)"):
        Tokenizer(tmp_path / "gone.model")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\x10" + bytes(40)])
def test_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.path: must be a SentencePiece model .*bad\.model\)"):
        Tokenizer(tmp_path / "bad.model")


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"model": {"type": "Forest"}}'])
def test_file_that_is_no_tokenizer_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.path: must be a tokenizer\.json of .*bad\.json\)"):
        Tokenizer(tmp_path / "bad.json")


def test_a_directory_is_answered_with_the_file_in_it(tmp_path: Path) -> None:
    path = train_byte_level(tmp_path)
    with pytest.raises(ConfigError, match=rf"must be a file, not a directory \(got {tmp_path}\)\. Use {path}"):
        Tokenizer(tmp_path)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_are_those_of_the_library(tokenizer: Tokenizer, text: str) -> None:
    if tokenizer.is_huggingface:
        library = tokenizers.Tokenizer.from_file(str(tokenizer.path))
        assert tokenizer.encode(text) == library.encode(text).ids
    else:
        assert tokenizer.encode(text) == sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path)).encode(
            text
        )


WORDS = {"[UNK]": 0, "the": 1, "ship": 2, "<eot>": 7}


def write_words(directory: Path, *added: tokenizers.AddedToken) -> Path:
    """A vocabulary of words, with a gap between the ids; tokens that it adds to every text must be ignored."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_tokens(list(added))
    model.enable_truncation(max_length=2)
    model.enable_padding(length=5, pad_id=2, pad_token="ship")
    model.post_processor = tokenizers.processors.TemplateProcessing("ship $A ship", special_tokens=[("ship", 2)])
    model.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"


def test_limits_and_decoration_of_a_published_file_are_left_out(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_words(tmp_path))
    assert tokenizer.encode("the the the cat") == [1, 1, 1, 0]
    assert tokenizer.vocab_size == 8
    assert tokenizer.unknown_id == 0
    assert (tokenizer.eos_id, tokenizer.bos_id) == (None, None)


@pytest.mark.parametrize("name", ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>"])
def test_the_end_of_a_document_by_its_usual_names(tmp_path: Path, name: str) -> None:
    tokenizer = Tokenizer(write_words(tmp_path, tokenizers.AddedToken(name, special=True)))
    assert tokenizer.eos_id == tokenizer.token_id(name) is not None


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("value", ["<eot>", {"content": "<eot>", "lstrip": False}])
def test_the_end_of_a_document_as_the_file_beside_names_it(tmp_path: Path, file: str, value: object) -> None:
    path = write_words(tmp_path, tokenizers.AddedToken("</s>", special=True))
    (tmp_path / file).write_text(json.dumps({"eos_token": value, "bos_token": None}))
    assert Tokenizer(path).eos_id == 7


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"eos_token": "<end>"}', "sets eos_token to <end>, which is not in the vocabulary"),
        ("[]", "tokenizer_config.json next to it must be a JSON object"),
        ("{", "tokenizer_config.json next to it cannot be read"),
    ],
)
def test_a_file_beside_that_cannot_be_followed(tmp_path: Path, content: str, expected: str) -> None:
    path = write_words(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=expected):
        Tokenizer(path)


def test_the_unknown_token_of_a_unigram_vocabulary(tmp_path: Path) -> None:
    model = tokenizers.Tokenizer(tokenizers.models.Unigram([("a", -1.0), ("?", 0.0)], unk_id=1))
    model.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path / "tokenizer.json").unknown_id == 1
