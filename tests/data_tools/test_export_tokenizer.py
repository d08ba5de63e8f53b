"""The exported tokenizer gives SentencePiece's ids, on text of several languages and on what tends to differ."""

import io
import json
import subprocess
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as proto

from data_tools.config.schema import TokenizerConfig
from data_tools.export_tokenizer import EDGE_TEXTS, build_texts, find_difference
from data_tools.stages.train_tokenizer import split_lines, trainer_options
from data_tools.tokenizer.convert import UnsupportedModelError, convert_tokenizer
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.commands import run_command
from trireme.tokenizer.tokenizer import IncrementalDecoder, Tokenizer

CODE = "def f(x):\n    if x > 10:\n        return {'k': [x, 2024]}  # <b>bold</b> && |x|\n\n\tx += 1\n"
SPECIAL = ["<|im_start|>", "<|im_end|>"]
SYMBOLS = ["aa", "===", "<|code|>", "é", "的的"]
"""One overlaps itself, one is spelled with signs of the special tokens, one is a letter."""


def train(model_type: str, *, texts: list[str], **fields: object) -> bytes:
    config = TokenizerConfig(model_type=model_type, num_threads=1, **fields)  # type: ignore[arg-type]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in split_lines(text)),
        model_writer=model,
        **trainer_options(config),
        hard_vocab_limit=False,
    )
    return model.getvalue()


def build_model(kind: str) -> bytes:
    """A model with pieces for '<' and '>', or without ("sparse"), with symbols or without."""
    prose = list(OWN_PROSE.values())
    if kind.endswith("sparse"):
        return train(kind.removesuffix("-sparse"), texts=prose * 2, vocab_size=900, character_coverage=0.99)
    return train(
        kind,
        texts=[*prose, CODE * 9],
        vocab_size=1500,
        character_coverage=1.0,
        split_digits=False,
        special_tokens=SPECIAL,
        user_defined_symbols=SYMBOLS,
        num_reserved_tokens=3,
    )


@pytest.fixture(scope="module", params=["unigram", "bpe", "unigram-sparse", "bpe-sparse"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.model"
    path.write_bytes(build_model(request.param))
    return Tokenizer(path)


@pytest.fixture(scope="module")
def exported(model: Tokenizer) -> Path:
    directory = model.path.parent / "exported"
    done = run_export(model.path, directory)
    assert done.returncode == 0, done.stderr
    assert "texts have the same ids" in done.stdout
    return directory


@pytest.fixture(scope="module")
def other(exported: Path) -> tokenizers.Tokenizer:
    loaded = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    loaded.encode_special_tokens = True
    return loaded


def run_export(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_command("data_tools.export_tokenizer", *arguments)


def test_the_model_suits_the_tests(model: Tokenizer) -> None:
    """Both ways to hide control pieces from the other library's lattice are taken."""
    has_piece = model.token_id("<") is not None
    assert has_piece == ("sparse" not in str(model.path.parent))
    if has_piece:
        assert set(SPECIAL) < set(model.special_tokens)
        assert model.token_id("aa") in model.encode("xaay")


@pytest.mark.parametrize("text", [*EDGE_TEXTS, *OWN_PROSE.values(), CODE])
def test_ids_and_text_of_hard_cases(model: Tokenizer, other: tokenizers.Tokenizer, text: str) -> None:
    assert find_difference(model, other, [text]) == (1, None)


@settings(max_examples=300)
@given(data=st.data())
def test_ids_and_text_of_anything(model: Tokenizer, other: tokenizers.Tokenizer, data: st.DataObject) -> None:
    pieces = st.integers(0, model.vocab_size - 1).map(lambda token: (model.token_name(token) or "").replace("▁", " "))
    rows = st.text(st.sampled_from("  \t\n\u2581ae的é=<|>/s0x41A"))
    anything = st.text(st.characters(exclude_categories=["Cs"]))
    text = "".join(data.draw(st.lists(st.one_of(pieces, rows, anything), max_size=8)))
    assert find_difference(model, other, [text])[1] is None


def test_our_own_tokenizer_reads_it(model: Tokenizer, exported: Path) -> None:
    tokenizer = Tokenizer(exported / "tokenizer.json")
    assert tokenizer.vocab_size == model.vocab_size
    assert (tokenizer.unknown_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.special_tokens == model.special_tokens
    assert tokenizer.byte_ids == model.byte_ids
    text = "<|im_start|>user\nWas heißt 漢字?<|im_end|>\n"
    ids = model.encode_with_special(text)
    assert tokenizer.encode_with_special(text) == ids
    assert tokenizer.decode(ids) == model.decode(ids)
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == model.decode(ids)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))))
def test_ids_stream_to_their_text(exported: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(exported / "tokenizer.json")
    ids = [token for text in texts for token in (*tokenizer.encode(text), tokenizer.eos_id)]
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + decoder.finish() == "".join(texts).replace("\u2581", " ")


def test_transformers_reads_it(model: Tokenizer, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    for loaded in (
        transformers.AutoTokenizer.from_pretrained(exported),
        transformers.PreTrainedTokenizerFast.from_pretrained(exported),
    ):
        assert len(loaded) == loaded.vocab_size == model.vocab_size
        assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
        for text in (*EDGE_TEXTS, *OWN_PROSE.values(), CODE):
            ids = loaded(text, split_special_tokens=True)["input_ids"]
            assert ids == model.encode(text), text
            assert loaded.decode(ids) == model.decode(ids)
        # Left to itself it finds special tokens in text, as chat templates need it.
        assert loaded("</s>")["input_ids"] == [2]
        assert loaded.decode([1, *model.encode("ab"), 2], skip_special_tokens=True) == "ab"


def test_the_files(model: Tokenizer, exported: Path) -> None:
    config = json.loads((exported / "tokenizer_config.json").read_text())
    names = json.loads((exported / "special_tokens_map.json").read_text())
    assert (names["unk_token"], names["bos_token"], names["eos_token"]) == ("<unk>", "<s>", "</s>")
    further = [name for name in model.special_tokens if name not in ("<s>", "</s>")]
    assert names.get("additional_special_tokens", []) == further
    assert config.items() >= names.items()


def test_a_given_text_is_compared_and_a_former_export_stays(model: Tokenizer, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "held_out.txt").write_text("".join(OWN_PROSE.values()), encoding="utf-8")
    again = run_export(model.path, exported, "--verify", tmp_path / "held_out.txt")
    assert again.returncode == 2
    assert "OUTPUT_DIR: already contains tokenizer.json, " in again.stderr
    before = (exported / "tokenizer.json").read_bytes()
    replaced = run_export(model.path, exported, "--verify", tmp_path / "held_out.txt", "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert (exported / "tokenizer.json").read_bytes() == before
    missing = run_export(model.path, tmp_path / "out", "--verify", tmp_path / "gone.txt")
    assert missing.returncode == 2
    assert "--verify" in missing.stderr and not (tmp_path / "out").exists()


def test_a_difference_is_named_and_nothing_written(tmp_path: Path) -> None:
    """Two pieces of one score: SentencePiece joins the left one first, the other library has an order of its own."""
    record = proto.ModelProto.FromString(build_model("bpe-sparse"))
    for name, score in (("q", -1.0), ("ж", -1.0), ("樽", -1.0), ("ж樽", -0.5), ("qж", -0.5)):
        if all(piece.piece != name for piece in record.pieces):
            record.pieces.add(piece=name, score=score, type=proto.ModelProto.SentencePiece.NORMAL)
    (tmp_path / "odd.model").write_bytes(record.SerializeToString())
    (tmp_path / "text").write_text("The same,\r\nand qж樽 differs.\n", encoding="utf-8")
    done = run_export(tmp_path / "odd.model", tmp_path / "out", "--verify", tmp_path / "text")
    assert done.returncode == 1
    assert f"Not exported: line 2 of {tmp_path / 'text'}: 'and qж樽 differs.\\n' differs: ids are [" in done.stderr
    assert not (tmp_path / "out").exists()


def test_symbols_win_against_likely_pieces() -> None:
    record = proto.ModelProto.FromString(build_model("unigram"))
    for piece in record.pieces:
        if piece.piece in ("a", "b"):
            piece.score = -1.0
    record.pieces.add(piece="aab", score=-0.95, type=proto.ModelProto.SentencePiece.NORMAL)
    content = record.SerializeToString()
    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert [model.id_to_piece(token) for token in model.encode("aab")] == ["aa", "b"]
    assert convert_tokenizer(content).tokenizer.encode("aab").tokens == ["aa", "b"]


def test_texts_are_tried_around_every_token(model: Tokenizer) -> None:
    texts = list(build_texts(model, ["==="]))
    assert {"===", "before===behind", "==", "</s>", "before</s>behind"} <= set(texts)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"add_dummy_prefix": True}, "puts a space before the text"),
        ({"normalization_rule_name": "nmt_nfkc"}, r"normalizes text \(nmt_nfkc\)"),
        ({"remove_extra_whitespaces": True}, "removes spaces"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces behind words"),
        ({"model_type": "char"}, "is neither a unigram nor a BPE model"),
    ],
)
def test_a_model_of_another_kind_is_refused(options: dict[str, object], expected: str) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([OWN_PROSE["en"]]),
        model_writer=model,
        **{**trainer_options(TokenizerConfig(vocab_size=384, num_threads=1)), "hard_vocab_limit": False, **options},
    )
    with pytest.raises(UnsupportedModelError, match=expected):
        convert_tokenizer(model.getvalue())


def test_what_is_no_sentencepiece_model(exported: Path, tmp_path: Path) -> None:
    done = run_export(exported / "tokenizer.json", tmp_path / "out")
    assert done.returncode == 2
    assert "MODEL: already a tokenizer.json" in done.stderr
    missing = run_export(tmp_path / "gone.model", tmp_path / "out")
    assert missing.returncode == 2
    assert "gone.model). Set it to" in missing.stderr
    assert "Traceback" not in done.stderr + missing.stderr
