"""Texts, tags and questions: ids and token types are those of transformers, and labels are at their places."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trireme.examples.small_tokenizers import named, save_bert_tokenizer, save_byte_tokenizer
from trireme.examples.classification import TextEncoder
from trireme.examples.document import ExampleRefusal
from trireme.examples.questions import QuestionEncoder
from trireme.examples.tags import WordEncoder
from trireme.shards.examples import NO_LABEL
from trireme.tokenizer.tokenizer import Tokenizer

CONTEXT = "The river Rhine flows through Cologne and Bonn. It is long."
WORDS = ["John", "flows", "in", "Berlin", "."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_bert_tokenizer(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("decoder")))


@pytest.fixture(scope="module")
def fast(bert: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - as heavy as all other tests of this file

    return PreTrainedTokenizerFast(
        tokenizer_file=str(bert.path), pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids"]
    )


@pytest.mark.parametrize("room", [64, 16, 11, 10])
@pytest.mark.parametrize("second", [None, "It is good and long.", "Who?", CONTEXT])
def test_texts_are_encoded_as_transformers_does(bert: Tokenizer, fast: Any, room: int, second: str | None) -> None:
    theirs = fast(CONTEXT, second, truncation=True, max_length=room)
    ours = TextEncoder(bert, seq_length=room, truncation="right").encode(CONTEXT, second, label=1)
    assert ours.tokens.tolist() == theirs["input_ids"]
    types = np.zeros(len(ours)) if ours.token_types is None else ours.token_types
    assert types.tolist() == theirs["token_type_ids"]
    assert (ours.token_types is None) == (second is None)
    assert ours.labels[0] == 1
    assert (ours.labels[1:] == NO_LABEL).all()
    assert ours.is_truncated == (len(fast(CONTEXT, second)["input_ids"]) > room)


def test_a_decoder_gets_eos_at_the_end_and_a_line_break_between_texts(decoder: Tokenizer) -> None:
    encoder = TextEncoder(decoder, seq_length=64, truncation="drop")
    assert named(decoder, encoder.encode("ab").tokens.tolist()) == ["a", "b", "</s>"]
    pair = encoder.encode("ab", "c")
    assert decoder.decode(pair.tokens.tolist()) == "ab\nc"
    assert pair.token_types is None
    with pytest.raises(ExampleRefusal, match="a text without tokens"):
        encoder.encode("")
    with pytest.raises(ExampleRefusal, match="longer than a row"):
        encoder.encode("a" * 64)


def test_left_truncation_keeps_the_end(bert: Tokenizer) -> None:
    document = TextEncoder(bert, seq_length=5, truncation="left").encode(CONTEXT)
    assert named(bert, document.tokens.tolist()) == ["[CLS]", "is", "long", ".", "[SEP]"]


def test_a_tag_is_at_the_first_token_of_its_word(bert: Tokenizer) -> None:
    document = WordEncoder(bert, seq_length=32, truncation="right").encode(WORDS, [1, 0, 0, 2, 0])
    names = named(bert, document.tokens.tolist())
    assert names == ["[CLS]", "john", "flows", "in", "ber", "##lin", ".", "[SEP]"]
    assert document.labels.tolist() == [NO_LABEL, 1, 0, 0, 2, NO_LABEL, 0, NO_LABEL]


def test_a_tag_is_at_the_first_token_also_where_tokens_hold_the_space(decoder: Tokenizer) -> None:
    encoded = WordEncoder(decoder, seq_length=64, truncation="right").encode_words(["ab", "\u4e2d", "c"])
    # The space between words is a token of its own here: it belongs to no word.
    assert encoded.first_tokens == (0, 3, 7)


@pytest.mark.parametrize(
    ("truncation", "room", "kept"),
    [("right", 7, ["john", "flows", "in"]), ("left", 5, ["ber", "##lin", "."]), ("left", 4, ["."])],
)
def test_whole_words_are_cut_off(bert: Tokenizer, truncation: Any, room: int, kept: list[str]) -> None:
    encoder = WordEncoder(bert, seq_length=room, truncation=truncation)
    words = WORDS if room < 7 else [*WORDS[:3], "berlinerinnen", "in"]
    encoded = encoder.encode_words(words)
    assert named(bert, encoded.document.tokens.tolist())[1:-1] == kept
    assert encoded.document.is_truncated
    assert sum(place is not None for place in encoded.first_tokens) == sum(not name.startswith("##") for name in kept)


def test_questions_are_cut_into_the_windows_of_transformers(bert: Tokenizer, fast: Any) -> None:
    question, answer = "Which river?", (CONTEXT.index("river"), "river Rhine")
    room, stride = 15, 4
    theirs = fast(
        question,
        CONTEXT,
        truncation="only_second",
        max_length=room,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = QuestionEncoder(bert, seq_length=room, stride=stride).encode(question, CONTEXT, [answer])
    assert [window.document.tokens.tolist() for window in windows] == theirs["input_ids"]
    assert len(windows) > 1
    num_with_answer = 0
    for window, types, offsets in zip(windows, theirs["token_type_ids"], theirs["offset_mapping"], strict=True):
        document = window.document
        assert document.token_types is not None
        assert document.token_types.tolist() == types
        begin, end = window.context.begin, window.context.begin + len(window.offsets)
        assert list(window.offsets) == offsets[begin:end]
        first, last = document.labels[:2].tolist()
        assert (document.labels[2:] == NO_LABEL).all()
        if last:
            num_with_answer += 1
            place = slice(window.offsets[first - begin][0], window.offsets[last - begin][1])
            assert CONTEXT[place] == answer[1]
        else:
            assert first == 0
    assert num_with_answer == 1


def test_a_question_without_an_answer_and_one_without_room(bert: Tokenizer) -> None:
    encoder = QuestionEncoder(bert, seq_length=32, stride=4)
    (window,) = encoder.encode("Who?", CONTEXT, [])
    assert window.document.labels[:2].tolist() == [0, 0]
    (unlabelled,) = encoder.encode("Who?", CONTEXT)
    assert (unlabelled.document.labels == NO_LABEL).all()
    with pytest.raises(ExampleRefusal, match="leaves room for"):
        encoder.encode("who " * 26, CONTEXT, [])


def test_offsets_of_sentencepiece_are_characters(tmp_path: Path) -> None:
    import sentencepiece  # noqa: PLC0415 - of this test alone

    prefix = tmp_path / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the river \u4e2d\u6587 flows", "\u00e9t\u00e9 in cologne"] * 20),
        model_prefix=str(prefix),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = Tokenizer(prefix.with_suffix(".model"))
    encoder = QuestionEncoder(tokenizer, seq_length=64, stride=4)
    context = "\u00e9t\u00e9 \u4e2d\u6587 flows"
    (window,) = encoder.encode("the river", context, [(4, "\u4e2d\u6587")])
    first, last = (int(place) - window.context.begin for place in window.document.labels[:2])
    assert context[window.offsets[first][0] : window.offsets[last][1]].strip() == "\u4e2d\u6587"
