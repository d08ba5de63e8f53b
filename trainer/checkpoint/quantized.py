"""Write and read a checkpoint's weights as small integers with scales, in a safetensors file.

The file `quantized.safetensors` replaces the files of torch.distributed.checkpoint. A tensor of the model whose name in
checkpoints is KEY is stored as KEY, or, where layers or experts are stacked, as KEY.LAYER.EXPERT for each of them:

- quantized: `NAME.int8`, [rows, columns] int8, or `NAME.int4`, [rows, columns / 2] uint8: integers plus 8, the even
  column in the lower four bits. Beside it `NAME.scales`, [rows, groups] fp16. Weights are integer * scale. Where
  `NAME.offsets`, [rows, groups] fp16, is there too, weights are (integer + 8) * scale + offset.
- full: `NAME`, fp32.

The metadata key `quantization` holds the settings as JSON. Any layout reads such a checkpoint: each rank takes the rows
and columns that it needs.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.checkpoint.manifest import FileRecord
from trainer.model.quantized import QuantizedTensor, join_rows, pack_int4, unpack_int4
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.extras import check_extra
from trireme.shards.manifest import hash_file

if TYPE_CHECKING:  # checkpoints are checked before Megatron-Core may be imported
    from trainer.model.sharding import ParameterBlock, ShardedParameter

QUANTIZED_NAME = "quantized.safetensors"
_SCALES, _OFFSETS = ".scales", ".offsets"
_SUFFIXES = {8: ".int8", 4: ".int4"}
_READ_ELEMENTS = 2**22
"""Elements dequantized at once, 16 MiB of fp32."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Hold how a checkpoint was quantized."""

    bits: int
    """Of the weights of linear layers: 8 or 4."""
    group_size: int | None
    """Inputs that share a scale; None for one scale a row."""
    method: str
    """round or gptq."""
    embedding_bits: int
    """Of the table of embeddings and of the output layer: 8 with one scale a row, 4 in groups of 32, or 32 for full
    ones."""
    source: str
    """Name of the checkpoint that was quantized."""
    source_sha256: str
    """Of that checkpoint, see `trainer.checkpoint.adapter_base.fingerprint`."""
    has_offsets: bool = False
    """Whether groups of 4 bits have offsets."""
    max_size: float = 0.0
    """Share of fp32 up to which linear layers got 8 bits with one scale a row instead of 4; 0 if none did."""


def is_quantized(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds quantized weights."""
    return (checkpoint / QUANTIZED_NAME).is_file()


def stored_name(key: str, place: Sequence[int] = ()) -> str:
    """Return the name of a tensor in the file: the checkpoint's key and the index on its stacked axes."""
    return ".".join((key, *map(str, place)))


def write_quantized(
    directory: Path, tensors: Mapping[str, torch.Tensor | QuantizedTensor], *, quantization: Quantization
) -> dict[str, FileRecord]:
    """Write the weights of a checkpoint.

    Args:
        directory: an unfinished checkpoint, from `trainer.checkpoint.directory.begin`.
        tensors: by `stored_name`; full ones fp32.
    Returns:
        The file written, for `commit`.
    Raises:
        OSError: the disk is full, for example.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - of the extra huggingface

    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            stored[name] = tensor.detach().to(torch.float32).contiguous()
            continue
        values = tensor.values if tensor.bits == 8 else pack_int4(tensor.values)
        stored[name + _SUFFIXES[tensor.bits]] = values.contiguous()
        stored[name + _SCALES] = tensor.scales.to(torch.float16).contiguous()
        if tensor.offsets is not None:
            stored[name + _OFFSETS] = tensor.offsets.to(torch.float16).contiguous()
    path = directory / QUANTIZED_NAME
    metadata = {"format": "pt", "quantization": json.dumps(asdict(quantization))}
    save_file(stored, path, metadata=metadata)
    return {QUANTIZED_NAME: FileRecord(num_bytes=path.stat().st_size, sha256=hash_file(path))}


class QuantizedFile:
    """Read the weights of a quantized checkpoint by rows.

    Args:
        checkpoint: a complete one.
    Raises:
        ConfigError: safetensors is not installed, or the file is damaged.
    """

    def __init__(self, checkpoint: Path) -> None:
        raise_if_any(check_extra("huggingface", ["safetensors"]))
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - of the extra huggingface

        self.path = checkpoint / QUANTIZED_NAME
        self._safe_open: Any = safe_open
        try:
            with safe_open(self.path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
                self.quantization = Quantization(**json.loads((file.metadata() or {})["quantization"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            message, fix = f"is damaged: {error}", "Restore it from a copy, or quantize the original again."
            raise ConfigError([Violation(path=str(self.path), value="", message=message, fix=fix)]) from error
        self._bits: dict[str, int] = {}
        self._has_offsets: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of the dequantized tensors, by `stored_name`."""
        for name, shape in shapes.items():
            bits = next((bits for bits, suffix in _SUFFIXES.items() if name.endswith(suffix)), None)
            if name.endswith(_OFFSETS):
                self._has_offsets.add(name.removesuffix(_OFFSETS))
            elif bits is None and not name.endswith(_SCALES):
                self.shapes[name] = shape
            elif bits is not None:
                base = name.removesuffix(_SUFFIXES[bits])
                self._bits[base] = bits
                self.shapes[base] = (shape[0], shape[1] * 8 // bits)

    def has_integers(self, name: str) -> bool:
        """Return whether a tensor is quantized."""
        return name in self._bits

    def read(self, name: str, first: int, end: int) -> torch.Tensor:
        """Return rows [first, end) of a tensor, dequantized to fp32."""
        if self.has_integers(name):
            return self.read_integers(name, first, end).dequantize()
        with self._safe_open(self.path, framework="pt") as file:
            rows: torch.Tensor = file.get_slice(name)[first:end]
            return rows.clone()

    def read_integers(self, name: str, first: int, end: int) -> QuantizedTensor:
        """Return rows [first, end) of a quantized tensor."""
        bits = self._bits[name]
        with self._safe_open(self.path, framework="pt") as file:
            stored = file.get_slice(name + _SUFFIXES[bits])[first:end]
            scales = file.get_slice(name + _SCALES)[first:end].to(torch.float32)
            values = stored.clone() if bits == 8 else unpack_int4(stored)
            offsets = None
            if name in self._has_offsets:
                offsets = file.get_slice(name + _OFFSETS)[first:end].to(torch.float32)
        return QuantizedTensor(values=values, scales=scales, bits=bits, offsets=offsets)

    @torch.no_grad()
    def load(self, parameters: "Iterable[ShardedParameter]") -> None:
        """Load parameters of any layout and data type, dequantized.

        Raises:
            ConfigError: a tensor is missing, or has another shape.
        """
        sharded = list(parameters)
        raise_if_any(self._check(sharded))
        for one in sharded:
            flat = one.parameter.data.view(-1)
            for block in one.blocks:
                local = flat[block.flat_start : block.flat_start + math.prod(block.local_shape)].view(block.local_shape)
                self._fill(local, block)

    def read_parameter(self, sharded: "ShardedParameter") -> QuantizedTensor | None:
        """Return this rank's part of a quantized matrix; None if it is not quantized, or its groups are cut."""
        parts = []
        for block in sharded.blocks:
            name, row, column = _place_of(block)
            if not self.has_integers(name) or len(block.local_shape) != 2:
                return None
            part = self.read_integers(name, row, row + block.local_shape[0])
            width = block.local_shape[1]
            group = part.values.shape[1] // part.scales.shape[1]
            if width == part.values.shape[1]:
                parts.append(part)
                continue
            if part.scales.shape[1] == 1:
                groups = slice(None)
            elif column % group or width % group:
                return None
            else:
                groups = slice(column // group, (column + width) // group)
            parts.append(
                QuantizedTensor(
                    values=part.values[:, column : column + width],
                    scales=part.scales[:, groups],
                    bits=part.bits,
                    offsets=None if part.offsets is None else part.offsets[:, groups],
                )
            )
        return join_rows(parts)

    def _fill(self, local: torch.Tensor, block: "ParameterBlock") -> None:
        name, row, column = _place_of(block)
        step = max(1, _READ_ELEMENTS // max(1, math.prod(self.shapes[name][1:])))
        for first in range(0, len(local), step):
            end = min(first + step, len(local))
            rows = self.read(name, row + first, row + end)
            local[first:end].copy_(rows[:, column : column + local.shape[1]] if rows.ndim > 1 else rows)

    def _check(self, parameters: "Iterable[ShardedParameter]") -> list[Violation]:
        found = []
        for block in (block for one in parameters for block in one.blocks):
            name, wanted = _place_of(block)[0], block.global_shape[block.num_stacked_axes :]
            if self.shapes.get(name) != tuple(wanted):
                message = f"has shape {self.shapes.get(name)} in the checkpoint, but the model has {tuple(wanted)}"
                fix = "Use a checkpoint of the model that its trainer_state.json describes."
                found.append(Violation(path=name, value=self.path, message=message, fix=fix))
        return found


def _place_of(block: "ParameterBlock") -> tuple[str, int, int]:
    """Return the stored name of a block's tensor, and the first row and column of the block."""
    num_stacked = block.num_stacked_axes
    offset = (*block.global_offset[num_stacked:], 0, 0)
    return stored_name(block.key, block.global_offset[:num_stacked]), offset[0], offset[1]


def check_trainable(checkpoint: Path, *, path: str) -> list[Violation]:
    """Report a checkpoint that training cannot start from, because it is quantized.

    Args:
        checkpoint: a complete one.
        path: the user's path of it.
    """
    if not is_quantized(checkpoint):
        return []
    message = "holds quantized weights, which are too coarse to be trained further"
    fix = "Start from the checkpoint that was quantized."
    return [Violation(path=path, value=checkpoint, message=message, fix=fix)]
