"""Read and write safetensors files by ranges of rows, so that no whole model is ever in memory.

Reading uses the safetensors library. Writing is done here, since the library writes whole dictionaries of tensors: the
format is the header's length (8 bytes, little-endian), a JSON header, and the tensors' bytes.

Source: https://github.com/huggingface/safetensors#format
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open

from trainer.huggingface.tensor_map import SourceTensor
from trireme.errors import ConfigError, Violation
from trireme.files import sync_directory

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Data types that weights may be stored in, by this project's names."""
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
_POSITIONS = "position_ids"
"""A buffer of whole numbers, which old versions of transformers saved with BERT: 0, 1, 2, ..."""
_FIX = "Download the file again."


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Hold the shape and data type of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightSource(Protocol):
    """Define what an import reads weights from."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Return all tensors, by name."""
        ...

    def read(self, name: str, first: int, end: int, *, axis: int = 0) -> torch.Tensor:
        """Return indices [first, end) of a tensor's axis 0 or 1, in a data type that holds the values exactly."""
        ...


class SafetensorsSource:
    """Read a directory's model.safetensors, or the files that its index names.

    Args:
        directory: of the files.
    Raises:
        ConfigError: there are none, or one of them is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Path] = {}
        self.tensors: dict[str, StoredTensor] = {}
        violations: list[Violation] = []
        expected = _read_index(directory)
        for path, names in expected.items():
            try:
                with safe_open(path, framework="pt") as file:
                    found = list(file.keys())
                    for name in found if names is None else [name for name in names if name in found]:
                        part = file.get_slice(name)
                        kind = part.get_dtype()
                        if kind not in _NAMES and name.endswith(_POSITIONS):
                            continue
                        if kind not in _NAMES:
                            violations.append(_unusable_dtype(path, name, kind))
                            continue
                        self._files[name] = path
                        self.tensors[name] = StoredTensor(shape=tuple(part.get_shape()), dtype=_NAMES[kind])
            except (SafetensorError, OSError) as error:
                violations.append(Violation(path=str(path), value="", message=f"cannot be read: {error}", fix=_FIX))
                continue
            lost = [name for name in names or () if name not in found]
            if lost:
                message = f"lacks {', '.join(lost[:3])}, which {INDEX_NAME} places there"
                violations.append(Violation(path=str(path), value="", message=message, fix=_FIX))
        if violations:
            raise ConfigError(violations)

    def read(self, name: str, first: int, end: int, *, axis: int = 0) -> torch.Tensor:
        """Return a copy of indices [first, end) of axis 0 or 1, in the stored data type."""
        # Opened for each range: the library maps a whole file, and keeps it mapped, and counted as this process's
        # memory, as long as it is open.
        with safe_open(self._files[name], framework="pt") as file:
            part = file.get_slice(name)
            found: torch.Tensor = part[first:end] if axis == 0 else part[:, first:end]
            return found.clone()


def _read_index(directory: Path) -> dict[Path, list[str] | None]:
    """Return the weight files of a directory, with the tensors that each must contain; None for all."""
    index = directory / INDEX_NAME
    if index.is_file():
        try:
            content = json.loads(index.read_bytes())
            places = content["weight_map"]
            files: dict[Path, list[str] | None] = {}
            for name, file in places.items():
                # A name, not a path: an index must not lead out of its directory.
                if Path(file).name != file:
                    raise ValueError(f"{file!r} is not the name of a file beside it")
                names = files.setdefault(directory / file, [])
                assert names is not None
                names.append(name)
            if not isinstance(content.get("metadata"), dict):
                raise ValueError("it has no metadata, which transformers requires")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            message = f"is damaged: {error}"
            raise ConfigError([Violation(path=str(index), value="", message=message, fix=_FIX)]) from error
        return files
    if (directory / WEIGHTS_NAME).is_file():
        return {directory / WEIGHTS_NAME: None}
    found = next((name for name in _PICKLED if (directory / name).is_file()), None)
    message, fix = "contains no model.safetensors and no model.safetensors.index.json", "Give a model's directory."
    if found is not None:
        message += f", only {found}, a pickle, which could run any code when it is read"
        fix = "Convert it to safetensors where you trust it: save_pretrained of transformers writes them."
    raise ConfigError([Violation(path="SOURCE", value=directory, message=message, fix=fix)])


def _unusable_dtype(path: Path, name: str, kind: str) -> Violation:
    message = f"stores {name} as {kind}; weights must be {', '.join(_NAMES)}"
    return Violation(path=str(path), value="", message=message, fix="Use the model's version without quantization.")


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """Hold a tensor that is going to be written."""

    tensor: SourceTensor
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return torch.Size(self.tensor.shape).numel() * self.dtype.itemsize


class SafetensorsWriter:
    """Write tensors by ranges of rows, in any order, into files whose size is fixed at the start.

    Use it as a context manager: its end flushes the files to the disk and closes them.

    Args:
        directory: an existing one without weights.
        tensors: all tensors, in the order of the files.
        max_shard_bytes: largest size of one file's tensors; a larger tensor gets a file of its own.
    """

    def __init__(self, directory: Path, tensors: Sequence[PlannedTensor], *, max_shard_bytes: int) -> None:
        self._directory = directory
        self._places: dict[str, tuple[Path, int, PlannedTensor]] = {}
        self._open: dict[Path, int] = {}
        shards = list(_split(tensors, max_shard_bytes=max_shard_bytes))
        names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
        if len(shards) == 1:
            names = [WEIGHTS_NAME]
        for name, shard in zip(names, shards, strict=True):
            self._begin(directory / name, shard)
        if len(shards) > 1:
            weight_map = {
                planned.tensor.name: name for name, shard in zip(names, shards, strict=True) for planned in shard
            }
            total = sum(planned.num_bytes for planned in tensors)
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _begin(self, path: Path, shard: Sequence[PlannedTensor]) -> None:
        kinds = {dtype: kind for kind, dtype in _NAMES.items()}
        # transformers refuses a file whose metadata does not name a framework.
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for planned in shard:
            header[planned.tensor.name] = {
                "dtype": kinds[planned.dtype],
                "shape": list(planned.tensor.shape),
                "data_offsets": [offset, offset + planned.num_bytes],
            }
            offset += planned.num_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the library aligns them
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self._open[path] = file
        os.truncate(file, 8 + len(text) + offset)
        _write_at(file, struct.pack("<Q", len(text)) + text, 0)
        start = 8 + len(text)
        for planned in shard:
            self._places[planned.tensor.name] = path, start, planned
            start += planned.num_bytes

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the data type of a tensor."""
        return self._places[name][2].dtype

    def write(self, name: str, first: int, rows: torch.Tensor) -> None:
        """Write rows from `first` on, [num_rows, ...], cast to the tensor's data type."""
        path, start, planned = self._places[name]
        row_elements = torch.Size(planned.tensor.shape[1:]).numel()
        values = rows.to(planned.dtype).contiguous()
        assert rows.shape[1:] == planned.tensor.shape[1:]
        assert first + len(rows) <= planned.tensor.shape[0]
        data = values.view(-1).view(torch.uint8).numpy()
        _write_at(self._open[path], data.data, start + first * row_elements * planned.dtype.itemsize)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Close all files, flushed to the disk unless the block has raised."""
        files, self._open = list(self._open.values()), {}
        try:
            if kind is None:
                for file in files:
                    os.fsync(file)
                sync_directory(self._directory)
        finally:
            for file in files:
                os.close(file)


def _write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes: a system call may write fewer, and 2 GiB at most."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _split(tensors: Sequence[PlannedTensor], *, max_shard_bytes: int) -> Iterator[list[PlannedTensor]]:
    shard: list[PlannedTensor] = []
    size = 0
    for planned in tensors:
        if shard and size + planned.num_bytes > max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(planned)
        size += planned.num_bytes
    yield shard
