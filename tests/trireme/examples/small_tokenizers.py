"""Small tokenizers and chat templates of the kinds that models have."""

import json
from pathlib import Path

import tokenizers
from tokenizers.processors import TemplateProcessing

from trireme.tokenizer.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_GENERATION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""CHATML, with the mark from which transformers makes its mask of what the assistant said."""
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT_WORDS = "the a river rhine cologne bonn flows through and it is long who which good bad film ber ##lin in john ? ."


def save_byte_tokenizer(folder: Path, **names: object) -> Path:
    """Write a tokenizer.json of single bytes with chat markers, and its tokenizer_config.json; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *sorted(alphabet)])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(SPECIAL)
    model.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def save_bert_tokenizer(folder: Path) -> Path:
    """Write a tokenizer.json of BERT's kind: WordPiece, lower case, [CLS] a [SEP] b [SEP] with types 0 and 1."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    words = list(dict.fromkeys([*BERT_SPECIAL, *BERT_WORDS.split(), *letters]))
    vocabulary = {word: number for number, word in enumerate(words)}
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    model.decoder = tokenizers.decoders.WordPiece()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    model.add_special_tokens(BERT_SPECIAL)
    model.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def named(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The names of tokens."""
    return [tokenizer.token_name(int(token)) or "" for token in ids]
