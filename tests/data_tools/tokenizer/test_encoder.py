import io
import random

import numpy as np
import pytest
import sentencepiece
import tokenizers

from data_tools.config.schema import TokenizerConfig
from data_tools.stages.train_tokenizer import split_lines, trainer_options
from data_tools.tokenizer import encoder as tokenize
from data_tools.tokenizer.encoder import DocumentEncoder, find_joined_bytes
from data_tools.tokenizer.sample_texts import OWN_PROSE
from trireme.tokenizer.tokenizer import Tokenizer

ALPHABET = " \n\tabcz.,Te09é中村のж\u2581\u200d\U0001f600\0"


def train(path, *, model_type="bpe", special_tokens=(), **changes):
    config = TokenizerConfig(model_type=model_type, vocab_size=1024, special_tokens=list(special_tokens))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in OWN_PROSE.values() for line in split_lines(text)),
        model_writer=model,
        **{**trainer_options(config), "hard_vocab_limit": False, **changes},
    )
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


def make_texts(seed=0):
    """Prose with its repetitions, and noise."""
    draw = random.Random(seed)
    words = [word for text in OWN_PROSE.values() for word in text.split()]
    texts = [*OWN_PROSE.values(), "", " ", "  a  b ", "\u2581", "a\u2581b \u2581", "<|end|> a<|end|>b"]
    texts += [draw.choice([" ", "  ", "\n"]).join(draw.choices(words, k=200)) for _ in range(20)]
    texts += ["".join(draw.choices(ALPHABET, k=draw.randint(0, 60))) for _ in range(300)]
    draw.shuffle(texts)
    return texts


def assert_same_ids(tokenizer, texts, *, batch=50):
    encoder = DocumentEncoder(tokenizer, dtype=np.dtype("<u2"))
    for first in range(0, len(texts), batch):
        part = texts[first : first + batch]
        expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in part]
        tokens, lengths = encoder.encode(part)
        assert lengths.tolist() == [len(ids) for ids in expected]
        assert tokens.tolist() == [token for ids in expected for token in ids]
        assert tokens.dtype == np.dtype("<u2")


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("special_tokens", [[], ["<|end|>", "a b", "の\u2581村"]])
def test_ids_are_those_of_the_tokenizer(tmp_path, model_type, special_tokens):
    tokenizer = train(tmp_path / "tokenizer.model", model_type=model_type, special_tokens=special_tokens)
    assert_same_ids(tokenizer, make_texts())


def test_only_plain_bpe_models_are_cut(tmp_path):
    def is_cut(**changes):
        return find_joined_bytes(train(tmp_path / "m.model", **changes).path.read_bytes()) is not None

    assert is_cut()
    assert not is_cut(model_type="unigram")
    assert not is_cut(add_dummy_prefix=True)
    assert not is_cut(remove_extra_whitespaces=True)
    assert not is_cut(normalization_rule_name="nfkc")
    assert not is_cut(byte_fallback=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"add_dummy_prefix": True},
        {"normalization_rule_name": "nfkc", "remove_extra_whitespaces": True},
        {"byte_fallback": False},
        {"split_by_whitespace": False},
        {"split_by_unicode_script": False, "split_by_number": False, "split_digits": False},
    ],
)
def test_other_models_give_their_own_ids(tmp_path, changes):
    assert_same_ids(train(tmp_path / "tokenizer.model", **changes), make_texts())


def test_known_parts_are_forgotten_without_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "MAX_CACHED_PARTS", 20)
    monkeypatch.setattr(tokenize, "MAX_CHUNK_BYTES", 1000)
    assert_same_ids(train(tmp_path / "tokenizer.model"), make_texts())


def test_a_tokenizer_json_and_no_documents(tmp_path):
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(OWN_PROSE.values(), trainer)
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert_same_ids(tokenizer, make_texts())
    tokens, lengths = DocumentEncoder(tokenizer, dtype=np.dtype("<i4")).encode([])
    assert (tokens.dtype, tokens.size, lengths.size) == (np.dtype("<i4"), 0, 0)
