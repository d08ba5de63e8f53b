"""Write a quantized model as a GGUF file for llama.cpp, which our own import reads too.

Source: llama.cpp's GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), the blocks of ggml's
ggml-common.h (block_q8_0, block_q4_0, block_q4_1), and its converter's names and orders of tensors.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from trainer.checkpoint.companions import read_generation_config
from trainer.checkpoint.quantized import stored_name
from trainer.compression.quantizing import QuantizedModel
from trainer.config.model import ModelConfig
from trainer.huggingface.families.family import config_of, find_differences
from trainer.huggingface.families.registry import choose_family
from trainer.huggingface.gguf_files import ARCHITECTURES, gguf_names, read_settings, row_order
from trainer.huggingface.tensor_map import TensorRule, build_rules
from trainer.huggingface.vocabulary_fields import tokenizer_fields
from trainer.model.quantized import QuantizedTensor
from trainer.saved_run import SavedRun
from trireme.errors import ConfigError, Violation

_BLOCK = 32
"""Weights of a block of the types Q8_0, Q4_0 and Q4_1."""
_FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7}
"""LLAMA_FTYPE_MOSTLY_* of llama.cpp."""


def check_gguf(path: Path, saved: SavedRun) -> list[Violation]:
    """Report what prevents a model from being written as a GGUF file."""
    found = []
    if path.exists():
        found.append(Violation(path="OUTPUT", value=path, message="exists", fix="Give another name, or remove it."))
    elif not path.absolute().parent.is_dir():
        found.append(Violation(path="OUTPUT", value=path, message="has no directory", fix="Create it."))
    if saved.tokenizer_path is None:
        message, fix = "contains no tokenizer, which a GGUF file needs", "Give a checkpoint with its tokenizer."
        found.append(Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix))
    model, vocab_size = saved.state.model_config(), saved.state.vocab_size or saved.state.padded_vocab_size
    for name in ("hidden_size", "ffn_hidden_size"):
        if getattr(model, name) % _BLOCK:
            message, fix = f"must be divisible by {_BLOCK}, the weights of a block", "Quantize it without --gguf."
            found.append(Violation(path=f"model.{name}", value=getattr(model, name), message=message, fix=fix))
    try:
        _describe(model, vocab_size=vocab_size)
    except ConfigError as error:
        found += error.violations
    return found


def write_gguf(path: Path, saved: SavedRun, quantized: QuantizedModel, *, kind: str) -> tuple[Path, int]:
    """Write a quantized model, whose matrices are stored in blocks of 32 weights.

    Integers, scales and offsets are stored as they are, one scale for each block; tables have the type Q8_0 or, if they
    are not quantized, F32.

    Args:
        path: of the file, which must not exist.
        saved: the checkpoint of the model.
        quantized: its integers, of 4 or 8 bits, whose groups are multiples of 32.
        kind: the type of its matrices: Q8_0, Q4_0 or, with offsets, Q4_1.
    Returns:
        The path, and the bytes of the tensors.
    Raises:
        ConfigError: no architecture of GGUF files means the very same model.
        OSError: the disk is full, for example.
    """
    config, vocab_size = saved.state.model_config(), saved.state.vocab_size or saved.state.padded_vocab_size
    architecture, fields, rules = _describe(config, vocab_size=vocab_size)
    assert saved.tokenizer_path is not None
    fields |= tokenizer_fields(saved.tokenizer_path, vocab_size=vocab_size)
    for name, value in read_generation_config(saved.checkpoint).items():
        if name in ("bos_token_id", "eos_token_id") and isinstance(value, int):
            fields[f"tokenizer.ggml.{name}"] = value
    temporary = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(temporary, architecture)
    num_bytes = 0
    try:
        writer.add_name(saved.state.run_name)
        writer.add_file_type(_FILE_TYPES[kind])
        for name, value in fields.items():
            _add_field(writer, name, value)
        heads = {"attn_q.": config.num_attention_heads, "attn_k.": config.num_query_groups}
        names = gguf_names(config)
        for source, tensor in _collect(rules, quantized):
            name = names[source]
            count = next((count for part, count in heads.items() if part in name), None)
            if architecture == "llama" and count is not None:
                num_rows = len(tensor.values) if isinstance(tensor, QuantizedTensor) else len(tensor)
                # Row r of Hugging Face's order goes to row order[r] of the file.
                order = torch.from_numpy(row_order(0, num_rows, num_rows=num_rows, num_heads=count)).argsort()
                tensor = _take(tensor, order)
            data, block = _encode(tensor)
            writer.add_tensor(name, data, raw_dtype=block)
            num_bytes += data.nbytes
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path, num_bytes


def _describe(model: ModelConfig, *, vocab_size: int) -> tuple[str, dict[str, Any], list[TensorRule]]:
    """Return a model's architecture, its settings by GGUF's names, and the rules of its tensors.

    Raises:
        ConfigError: the file would mean another model.
    """
    family = choose_family(model, vocab_size=vocab_size, preferred="llama")
    architecture = family.model_type
    if architecture not in ARCHITECTURES:
        message = f"is of the family {architecture}, of which no GGUF files are written"
        raise _cannot(message)
    content = config_of(family, model, vocab_size=vocab_size)
    settings = {
        "block_count": model.num_layers,
        "context_length": content["max_position_embeddings"],
        "embedding_length": model.hidden_size,
        "feed_forward_length": model.ffn_hidden_size,
        "attention.head_count": model.num_attention_heads,
        "attention.head_count_kv": model.num_query_groups,
        "attention.layer_norm_rms_epsilon": float(model.norm_epsilon),
        "attention.key_length": model.head_size,
        "attention.value_length": model.head_size,
        "rope.freq_base": float(model.rotary_base),
        "rope.dimension_count": model.head_size,
        "vocab_size": vocab_size,
    }
    fields: dict[str, Any] = {f"{architecture}.{name}": value for name, value in settings.items()}
    rules = build_rules(model, family.names_of(model), vocab_size=vocab_size, padded_vocab_size=vocab_size)
    names = {segment.name for rule in rules for segment in rule.segments}
    known = gguf_names(model)
    lost = sorted(names - known.keys())
    tensor_names = {known[name] for name in names if name in known}
    read = read_settings(fields | {"general.architecture": architecture}, tensor_names=tensor_names)
    differences = find_differences(model, read)
    if lost or differences:
        message = f"cannot be a GGUF file, which has no place for {', '.join([*lost, *differences][:4])}"
        raise _cannot(message)
    return architecture, fields, rules


def _cannot(message: str) -> ConfigError:
    fix = "Quantize it without --gguf, or use llama.cpp's converter on an export."
    return ConfigError([Violation(path="model", value="", message=message, fix=fix)])


def _collect(
    rules: list[TensorRule], quantized: QuantizedModel
) -> Iterator[tuple[str, torch.Tensor | QuantizedTensor]]:
    """Yield the tensors of Hugging Face's names, each put together from its rows of native tensors."""
    for rule in rules:
        tensor = quantized.tensors[stored_name(rule.tensor.key, rule.tensor.place)]
        rows: dict[str, list[tuple[int, torch.Tensor]]] = {}
        for segment in rule.segments:
            taken = torch.arange(segment.row, segment.row + segment.num_rows)
            rows.setdefault(segment.name, []).append((segment.source_row, taken))
        for name, parts in rows.items():
            yield name, _take(tensor, torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])]))


def _take(tensor: torch.Tensor | QuantizedTensor, rows: torch.Tensor) -> torch.Tensor | QuantizedTensor:
    return tensor.rows(rows) if isinstance(tensor, QuantizedTensor) else tensor[rows]


def _encode(tensor: torch.Tensor | QuantizedTensor) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """Return a tensor's bytes, [n, bytes of a row] uint8, or fp32 values, and their type."""
    if not isinstance(tensor, QuantizedTensor):
        return tensor.float().cpu().numpy(), gguf.GGMLQuantizationType.F32
    if tensor.bits == 8:
        return _blocks(tensor), gguf.GGMLQuantizationType.Q8_0
    has_offsets = tensor.offsets is not None
    return _blocks(tensor), gguf.GGMLQuantizationType.Q4_1 if has_offsets else gguf.GGMLQuantizationType.Q4_0


def _blocks(tensor: QuantizedTensor) -> np.ndarray:
    """Return ggml's blocks of a matrix [n, k]: [n, k / 32 * (2 + 4 * bits)] uint8, with offsets 2 more a block.

    A block has its scale in fp16, its offset if there is one, and 32 integers: of 8 bits as they are, of 4 bits plus 8,
    the first 16 in the lower halves of 16 bytes and the others in the upper ones.
    """
    num_rows, num_columns = tensor.values.shape
    num_blocks = num_columns // _BLOCK
    values = tensor.values.view(num_rows, num_blocks, _BLOCK)
    numbers = torch.stack([one for one in (tensor.scales, tensor.offsets) if one is not None], dim=-1)
    numbers = numbers.repeat_interleave(num_blocks // numbers.shape[1], dim=1).to(torch.float16)
    if tensor.bits == 8:
        data = values.numpy().view(np.uint8)
    else:
        shifted = (values + 8).to(torch.uint8)
        data = (shifted[..., : _BLOCK // 2] | (shifted[..., _BLOCK // 2 :] << 4)).numpy()
    heads = numbers.contiguous().numpy().view(np.uint8)
    return np.ascontiguousarray(np.concatenate((heads, data), axis=-1).reshape(num_rows, -1))


def _add_field(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
