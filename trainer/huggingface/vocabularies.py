"""Write the tokenizer of a GGUF file as tokenizer.json or as a SentencePiece model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from trainer.checkpoint.companions import GENERATION_CONFIG_NAME
from trainer.checkpoint.tokenizer import SENTENCEPIECE_NAME
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.backends import CONFIG_NAMES
from trireme.tokenizer.model_files import CHAT_TEMPLATE_NAME
from trireme.tokenizer.tokenizer import HUGGINGFACE_NAME

_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens: those that no text produces, and those that are cut out of the text first."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": rf"{_WORDS}\p{{N}}{{1,3}}{_SIGNS}", "qwen2": rf"{_WORDS}\p{{N}}{_SIGNS}"}
_GPT2 = ("gpt-2", "default")
_DIGITS = ("smollm",)
KINDS = (*_GPT2, *_DIGITS, *_SPLITS)
"""Values of tokenizer.ggml.pre, which names how text is split before byte-pair merges."""
_FIX = "Put the model's own tokenizer.json next to the file."


def write_gguf_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer, names of special tokens, chat template and generation_config.json.

    Args:
        fields: of the GGUF file, by name.
        folder: an existing directory.
    Raises:
        ConfigError: the tokenizer is of a kind that is not known here.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _build_bpe(fields)
        tokenizer.save(str(folder / HUGGINGFACE_NAME))
    elif kind == "llama":
        (folder / SENTENCEPIECE_NAME).write_bytes(_build_sentencepiece(fields))
    else:
        message = "is not a kind of tokenizer that can be read from a GGUF file"
        raise ConfigError([Violation(path="tokenizer.ggml.model", value=kind, message=message, fix=_FIX)])
    _write_names(fields, folder)


def _build_bpe(fields: Mapping[str, Any]) -> Tokenizer:
    pre = fields.get("tokenizer.ggml.pre", "default")
    if pre not in KINDS:
        message = f"is not one of {', '.join(KINDS)}, so it is not known how text is split into words"
        raise ConfigError([Violation(path="tokenizer.ggml.pre", value=pre, message=message, fix=_FIX)])
    names: list[str] = list(fields["tokenizer.ggml.tokens"])
    kinds = [int(kind) for kind in fields["tokenizer.ggml.token_type"]]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = build_pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    for kind in (_CONTROL, _USER_DEFINED):
        added = [name for name, found in zip(names, kinds, strict=True) if found == kind]
        add = tokenizer.add_special_tokens if kind == _CONTROL else tokenizer.add_tokens
        add([AddedToken(name, special=kind == _CONTROL, normalized=False) for name in added])
    return tokenizer


def build_pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    """Return what splits text into words, by one of `KINDS`."""
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        parts = [pre_tokenizers.Digits(individual_digits=True)] if pre in _DIGITS else []
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    return pre_tokenizers.Sequence(parts)


def _build_sentencepiece(fields: Mapping[str, Any]) -> bytes:
    """Return a SentencePiece model; kinds of tokens have the same numbers in both formats."""
    names = list(fields["tokenizer.ggml.tokens"])
    scores = fields.get("tokenizer.ggml.scores") or [0.0] * len(names)
    model = proto.ModelProto()
    for name, score, kind in zip(names, scores, fields["tokenizer.ggml.token_type"], strict=True):
        model.pieces.add(piece=name, score=float(score), type=int(kind))
    # llama.cpp merges neighbours by score, which is SentencePiece's BPE.
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(names)
    for key, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        found = fields.get(f"tokenizer.ggml.{field}_token_id")
        setattr(model.trainer_spec, f"{key}_id", -1 if found is None else int(found))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _write_names(fields: Mapping[str, Any], folder: Path) -> None:
    names = fields["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    ids: dict[str, int] = {}
    for key, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        found = fields.get(f"tokenizer.ggml.{field}_token_id")
        if found is not None:
            config[f"{key}_token"] = names[int(found)]
            ids[f"{key}_token_id"] = int(found)
    ids.pop("unk_token_id", None)
    for key in ("add_bos_token", "add_eos_token"):
        if f"tokenizer.ggml.{key}" in fields:
            config[key] = bool(fields[f"tokenizer.ggml.{key}"])
    template = fields.get("tokenizer.chat_template")
    if template:
        (folder / CHAT_TEMPLATE_NAME).write_text(template, encoding="utf-8")
    for name, content in ((CONFIG_NAMES[0], config), (GENERATION_CONFIG_NAME, ids)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
