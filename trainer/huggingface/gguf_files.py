"""Read GGUF files as Hugging Face checkpoints: settings, dequantized weights, tokenizer and chat template.

Source: llama.cpp's GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), and its converter's
names and orders of tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from trainer.config.model import ModelConfig
from trainer.huggingface.families.registry import read_model
from trainer.huggingface.importing import Source
from trainer.huggingface.tokenizer_files import open_source_tokenizer
from trainer.huggingface.vocabularies import write_gguf_tokenizer
from trainer.huggingface.weight_files import StoredTensor
from trireme.errors import ConfigError, Violation

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Values of general.architecture that are imported, with the class of transformers. Mistral's files say llama."""
_PERMUTED = ("llama",)
"""Those in which llama.cpp rotates neighbouring channels, so that its converter has reordered queries and keys."""
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
_FIX = "Import the safetensors of this model."


@dataclass(frozen=True, kw_only=True)
class _Stored:
    tensor: Any
    """Of the gguf library."""
    num_heads: int | None
    """Heads whose rows are reordered; None for the other tensors."""


class GgufWeights:
    """Read tensors of a GGUF file by rows, dequantized, under Hugging Face's names.

    Args:
        reader: of the file.
        num_heads, num_groups: of queries and of keys, where the file has their rows in llama.cpp's order.
    Raises:
        ConfigError: a tensor has an unknown name or type.
    """

    def __init__(self, reader: gguf.GGUFReader, *, num_heads: int | None, num_groups: int | None) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self._stored: dict[str, _Stored] = {}
        for tensor in reader.tensors:
            name = _translate(tensor.name)
            heads = {"attn_q.": num_heads, "attn_k.": num_groups}
            reordered = next((count for part, count in heads.items() if part in tensor.name), None)
            self._stored[name] = _Stored(tensor=tensor, num_heads=reordered)
            dtype = _DTYPES.get(tensor.tensor_type.name, torch.float32)
            shape = tuple(int(size) for size in reversed(tensor.shape))
            self.tensors[name] = StoredTensor(shape=shape, dtype=dtype)

    def read(self, name: str, first: int, end: int, *, axis: int = 0) -> torch.Tensor:
        """Return rows [first, end), dequantized to fp32."""
        assert axis == 0, "no family of a GGUF file has transposed tensors"
        stored = self._stored[name]
        data = stored.tensor.data
        if stored.tensor.data.ndim == 1:
            values = gguf.quants.dequantize(data, stored.tensor.tensor_type)[first:end]
        else:
            rows = row_order(first, end, num_rows=len(data), num_heads=stored.num_heads)
            values = gguf.quants.dequantize(data[rows], stored.tensor.tensor_type)
        return torch.from_numpy(np.array(values, dtype=np.float32))


def row_order(first: int, end: int, *, num_rows: int, num_heads: int | None) -> np.ndarray:
    """Return where rows [first, end) of Hugging Face's order are in the file.

    Hugging Face rotates channels i and i + d / 2 of a head of d, llama.cpp channels 2 i and 2 i + 1.
    """
    rows = np.arange(first, end)
    if num_heads is None:
        return rows
    size = num_rows // num_heads
    head, channel = rows // size, rows % size
    half, pair = channel // (size // 2), channel % (size // 2)
    order: np.ndarray = head * size + pair * 2 + half
    return order


def _translate(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}"
    message = "is a tensor without counterpart in the supported families"
    if name.startswith("rope_freqs"):
        message = "holds rotary frequencies scaled as in Llama 3.1, but not the numbers that scale them"
    raise ConfigError([Violation(path=name, value="", message=message, fix=_FIX)])


def open_gguf(path: Path, *, folder: Path) -> Source:
    """Open a GGUF file as a model to import.

    Args:
        path: of the file. A tokenizer.json next to it is preferred to the one made from the file.
        folder: an empty directory, which gets the tokenizer's files, and must exist until the import is done.
    Raises:
        ConfigError: the file is damaged, or of a family or with a setting that is not supported.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, KeyError) as error:
        message, fix = f"cannot be read: {error}", "Give a complete .gguf file."
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    content = _config_of(fields, tensor_names={tensor.name for tensor in reader.tensors})
    is_permuted = fields["general.architecture"] in _PERMUTED
    weights = GgufWeights(
        reader,
        num_heads=content["num_attention_heads"] if is_permuted else None,
        num_groups=content["num_key_value_heads"] if is_permuted else None,
    )
    beside = open_source_tokenizer(path.parent)
    if beside is None:
        write_gguf_tokenizer(fields, folder)
    tokenizer = beside or open_source_tokenizer(folder)
    return Source(
        name=path.name,
        content=content,
        weights=weights,
        tokenizer=tokenizer,
        directory=path.parent,
        gguf_file=path.name,
    )


def read_settings(fields: dict[str, Any], *, tensor_names: set[str]) -> ModelConfig:
    """Return the model that a file's settings and the names of its tensors mean.

    Raises:
        ConfigError: the architecture or a setting is not supported.
    """
    return read_model(_config_of(fields, tensor_names=tensor_names))[1]


def gguf_names(model: ModelConfig) -> dict[str, str]:
    """Return the names of a GGUF file's tensors by Hugging Face's, for as many layers as a model has."""
    names = {ours: theirs for theirs, ours in _NAMES.items()}
    for layer in range(model.num_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for theirs, ours in _LAYER_NAMES.items()}
    return names


def _config_of(fields: dict[str, Any], *, tensor_names: set[str]) -> dict[str, Any]:
    """Build the config.json of a file's settings.

    Raises:
        ConfigError: the architecture or a setting is not supported.
    """
    architecture = str(fields.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        fix = f"Use a file of {', '.join(ARCHITECTURES)}, or import the safetensors of this model."
        message = "is not an architecture that can be imported from a GGUF file"
        raise ConfigError([Violation(path="general.architecture", value=architecture, message=message, fix=fix)])
    settings = {key.removeprefix(architecture + "."): value for key, value in fields.items()}
    known: set[str] = set()

    def take(key: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        known.add(key)
        value = settings.get(key, default)
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            message = "is missing" if value is None else "must be a number"
            path = f"{architecture}.{key}"
            raise ConfigError([Violation(path=path, value=value or "", message=message, fix=_FIX)]) from error

    heads = take("attention.head_count", int)
    hidden_size = take("embedding_length", int)
    head_size = take("attention.key_length", int, hidden_size // max(heads, 1))
    content = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "num_hidden_layers": take("block_count", int),
        "hidden_size": hidden_size,
        "intermediate_size": take("feed_forward_length", int),
        "num_attention_heads": heads,
        "num_key_value_heads": take("attention.head_count_kv", int, heads),
        "head_dim": head_size,
        "max_position_embeddings": take("context_length", int),
        "rms_norm_eps": take("attention.layer_norm_rms_epsilon", _short_float),
        "rope_theta": take("rope.freq_base", _short_float, 10000.0),
        "vocab_size": take("vocab_size", int, len(fields.get("tokenizer.ggml.tokens", ()))),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        **{f"{name}_token_id": int(value) for name, value in _token_ids(fields).items()},
    }
    known |= {"rope.dimension_count", "attention.value_length"}
    unlike = [
        key for key in ("rope.dimension_count", "attention.value_length") if settings.get(key, head_size) != head_size
    ]
    unknown = [key for key in settings if f"{architecture}.{key}" in fields and key not in known]
    violations = [
        Violation(
            path=f"{architecture}.{key}",
            value=settings[key],
            message=f"must be {head_size}, the channels of a head" if key in unlike else "is not supported",
            fix=_FIX,
        )
        for key in (*unlike, *unknown)
    ]
    if violations:
        raise ConfigError(violations)
    return content


def _short_float(value: Any) -> float:
    """Return the decimal number that was rounded to fp32 in the file: 1e-05 instead of 9.999999747378752e-06."""
    return float(f"{float(value):.7g}")


def _token_ids(fields: dict[str, Any]) -> dict[str, Any]:
    keys = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
    return {name: fields[f"tokenizer.ggml.{key}"] for name, key in keys.items() if f"tokenizer.ggml.{key}" in fields}
