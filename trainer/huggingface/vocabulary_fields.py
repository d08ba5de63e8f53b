"""Describe a checkpoint's tokenizer by the fields of a GGUF file; `vocabularies` reads them."""

import json
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer as HuggingFaceTokenizer

from trainer.huggingface.vocabularies import KINDS, build_pre_tokenizer
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.model_files import read_chat_template
from trireme.tokenizer.tokenizer import Tokenizer

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_FIX = "Export the model with `trireme export-hf`, and convert it with llama.cpp."


def tokenizer_fields(path: Path, *, vocab_size: int) -> dict[str, Any]:
    """Return the fields that describe a tokenizer in a GGUF file, by name.

    Args:
        path: of tokenizer.json or tokenizer.model; the files next to it are read too.
        vocab_size: rows of the model's table; ids beyond the tokenizer's are named as unused.
    Raises:
        ConfigError: GGUF has no name for the way in which it splits text.
    """
    tokenizer = Tokenizer(path)
    fields = _bpe_fields(path) if tokenizer.is_huggingface else _sentencepiece_fields(path)
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    missing = vocab_size - len(tokens)
    tokens += [f"[UNUSED{len(tokens) + index}]" for index in range(missing)]
    fields["tokenizer.ggml.token_type"] += [_UNUSED] * missing
    if "tokenizer.ggml.scores" in fields:
        fields["tokenizer.ggml.scores"] += [0.0] * missing
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    fields |= {f"tokenizer.ggml.{name}_token_id": found for name, found in ids.items() if found is not None}
    fields["tokenizer.ggml.add_bos_token"] = bool(tokenizer.opening_ids)
    template = read_chat_template(path.parent)
    return fields if template is None else {**fields, "tokenizer.chat_template": template}


def _bpe_fields(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    model = content["model"]
    if model["type"] != "BPE":
        raise _cannot(path, f"is of the kind {model['type']}, which GGUF files do not have")
    pre = next((kind for kind in KINDS if content["pre_tokenizer"] == _as_json(kind)), None)
    if pre is None:
        raise _cannot(path, "splits text into words in a way that has no name in GGUF files")
    added = {token["id"]: token for token in content["added_tokens"]}
    known = {token: name for name, token in model["vocab"].items()} | {
        id_: one["content"] for id_, one in added.items()
    }
    ids = range(max(known) + 1)
    kinds = {id_: _CONTROL if token["special"] else _USER_DEFINED for id_, token in added.items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [known.get(id_, f"[UNUSED{id_}]") for id_ in ids],
        "tokenizer.ggml.token_type": [kinds.get(id_, _NORMAL if id_ in known else _UNUSED) for id_ in ids],
        "tokenizer.ggml.merges": [one if isinstance(one, str) else " ".join(one) for one in model["merges"]],
    }


def _as_json(kind: str) -> Any:
    holder = HuggingFaceTokenizer.from_str('{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}')
    holder.pre_tokenizer = build_pre_tokenizer(kind)
    return json.loads(holder.to_str())["pre_tokenizer"]


def _sentencepiece_fields(path: Path) -> dict[str, Any]:
    model = proto.ModelProto()
    model.ParseFromString(path.read_bytes())
    if model.trainer_spec.model_type != proto.TrainerSpec.BPE or not model.trainer_spec.byte_fallback:
        raise _cannot(path, "is no BPE model of SentencePiece with bytes for unknown characters")
    if model.normalizer_spec.precompiled_charsmap or model.normalizer_spec.remove_extra_whitespaces:
        raise _cannot(path, "normalizes text, which GGUF files do not")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [int(piece.type) for piece in model.pieces],
        "tokenizer.ggml.add_space_prefix": model.normalizer_spec.add_dummy_prefix,
    }


def _cannot(path: Path, message: str) -> ConfigError:
    return ConfigError([Violation(path="tokenizer", value=path, message=message, fix=_FIX)])
