"""Write a checkpoint of weights from a Hugging Face checkpoint, and back, one range of rows at a time.

Neither direction builds the model or needs a process group: memory holds one chunk of `MAX_SAVED_ELEMENTS` in fp32 and
its stored form, however large the model is. GPT-2's transposed matrices are read whole.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata

from trainer.checkpoint.adapter_base import locate_base
from trainer.checkpoint.adapters import LowRankUpdate, SavedAdapters
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.dcp import SafeReader, read_pieces
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.pieces import MAX_SAVED_ELEMENTS, WEIGHTS_PREFIX, ShardedTensorView
from trainer.checkpoint.quantized import QuantizedFile, is_quantized, stored_name
from trainer.checkpoint.save import write_pieces
from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.tensor_map import TensorRule
from trainer.huggingface.weight_files import DTYPES, SafetensorsWriter, WeightSource
from trireme.errors import ConfigError, Violation
from trireme.progress import PlainProgress

Report = Callable[[int], object]
"""Receives the number of elements that have been copied since the last call."""


class CopyProgress:
    """Log how many parameters have been copied, every few seconds."""

    def __init__(self, title: str, *, total: int, write: Callable[[str], object]) -> None:
        self._progress = PlainProgress(title, total=total, unit="parameters", write=write)
        self._done = 0

    def __call__(self, num_elements: int) -> None:
        """Count elements as copied."""
        self._done += num_elements
        self._progress.update(self._done)


def write_native(
    directory: Path, rules: Sequence[TensorRule], source: WeightSource, *, report: Report
) -> dict[str, FileRecord]:
    """Write the weights of a checkpoint, in fp32; padding rows of the vocabulary are zeros.

    Args:
        directory: an unfinished checkpoint, from `trainer.checkpoint.directory.begin`.
        rules: of every tensor of the model.
        source: has the tensors that the rules name.
    Returns:
        The files written, for `commit`.
    Raises:
        OSError: the disk is full, for example.
        ConfigError: a weight is not a finite number.
    """
    pieces: dict[str, ShardedTensorView] = {}
    for rule in rules:
        tensor = rule.tensor
        view = pieces.setdefault(
            WEIGHTS_PREFIX + tensor.key, _SourceView((*tensor.stacked_shape, *tensor.shape), source, report)
        )
        assert isinstance(view, _SourceView)
        view.add_rule(rule)
    return write_pieces(directory, pieces, ranks=Ranks(is_alone=True))


class _SourceView(ShardedTensorView):
    """Hold a tensor whose chunks are read when the checkpoint's writer asks for them, one after the other."""

    def __init__(self, global_shape: Sequence[int], source: WeightSource, report: Report) -> None:
        super().__init__(global_shape, dtype=torch.float32)
        self._source = source
        self._report = report
        self._chunks: dict[torch.Size, tuple[torch.Size, TensorRule]] = {}

    def add_rule(self, rule: TensorRule) -> None:
        """Add the chunks of one layer's, or expert's, part of the tensor."""
        tensor = rule.tensor
        ones = (1,) * len(tensor.stacked_shape)
        for first, end in row_ranges(tensor.shape):
            offset = torch.Size((*tensor.place, first, *(0 for _ in tensor.shape[1:])))
            self._chunks[offset] = torch.Size((*ones, end - first, *tensor.shape[1:])), rule

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(offsets=offset, sizes=size) for offset, (size, _) in self._chunks.items()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        assert index.offset is not None
        size, rule = self._chunks[torch.Size(index.offset)]
        first = index.offset[len(rule.tensor.stacked_shape)]
        values = read_source_rows(rule, self._source, first, first + size[len(rule.tensor.stacked_shape)])
        self._report(values.numel())
        return values.view(size)


def row_ranges(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, end) of rows of at most `MAX_SAVED_ELEMENTS` elements, or of one row."""
    step = max(1, MAX_SAVED_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def read_source_rows(rule: TensorRule, source: WeightSource, first: int, end: int) -> torch.Tensor:
    """Return native rows [first, end) of a Hugging Face checkpoint, [end - first, ...] fp32.

    Raises:
        ConfigError: a value is NaN or infinite.
    """
    rows = torch.zeros(end - first, *rule.tensor.shape[1:], dtype=torch.float32)
    for segment in rule.overlaps(first, end):
        axis = 1 if rule.is_transposed else 0
        values = source.read(segment.name, segment.source_row, segment.source_row + segment.num_rows, axis=axis)
        target = rows[segment.row - first : segment.row - first + segment.num_rows]
        target.copy_(values.t() if rule.is_transposed else values)
        _check_finite(segment.name, target)
    return rows


def _check_finite(name: str, values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        message, fix = "contains NaN or infinity", "Download the file again, or give another version of the model."
        raise ConfigError([Violation(path=name, value="", message=message, fix=fix)])


class NativeWeights:
    """Read the weights of a checkpoint by ranges of rows, whatever layout saved them.

    Adapters are added to the weights of their base checkpoint, and quantized weights dequantized, as these are read.

    Args:
        checkpoint: a complete one.
        base: where the base checkpoint of adapters is; None takes the path that they name.
    Raises:
        ConfigError: the base checkpoint is missing or another one.
    """

    def __init__(self, checkpoint: Path, *, base: Path | None = None) -> None:
        state = read_state(checkpoint)
        self._adapters = SavedAdapters(checkpoint, state) if state.base is not None else None
        self._adds = True
        self._update: tuple[tuple[str, tuple[int, ...]], LowRankUpdate] | None = None
        self.checkpoint = checkpoint
        """Of the base, for adapters."""
        if state.base is not None:
            self.checkpoint = locate_base(state.base, adapters=checkpoint, given=base, path="--base")
        self._quantized = QuantizedFile(self.checkpoint) if is_quantized(self.checkpoint) else None
        self.shapes: Mapping[str, tuple[int, ...]]
        if self._quantized is None:
            contents = SafeReader(self.checkpoint).read_metadata().state_dict_metadata
            self.shapes = {
                key.removeprefix(WEIGHTS_PREFIX): tuple(entry.size)
                for key, entry in contents.items()
                if key.startswith(WEIGHTS_PREFIX) and isinstance(entry, TensorStorageMetadata)
            }
        else:
            self.shapes = self._quantized.shapes
        if self._adapters is not None:
            self.shapes = {**self.shapes, **self._adapters.whole_shapes}

    def without_adapters(self) -> "NativeWeights":
        """Return the weights beneath the adapters, with the adapters' task head."""
        beneath = copy.copy(self)
        beneath._adds = False
        return beneath

    def check(self, rules: Sequence[TensorRule]) -> list[Violation]:
        """Report tensors that rules need and the checkpoint lacks, and tensors that no rule reads."""
        wanted = {rule.tensor.key: (*rule.tensor.stacked_shape, *rule.tensor.shape) for rule in rules}
        if self._quantized is not None:
            wanted = {stored_name(rule.tensor.key, rule.tensor.place): rule.tensor.shape for rule in rules}
        fix = "Use a checkpoint of the model that its trainer_state.json describes."
        violations = []
        for key in sorted(wanted.keys() | self.shapes.keys()):
            if self.shapes.get(key) == wanted.get(key):
                continue
            message = f"has shape {self.shapes.get(key)} in the checkpoint, but the model has {wanted.get(key)}"
            violations.append(Violation(path=key, value=self.checkpoint, message=message, fix=fix))
        return violations

    def read(self, rule: TensorRule, first: int, end: int) -> torch.Tensor:
        """Return rows [first, end) of a tensor, [end - first, ...] fp32."""
        tensor = rule.tensor
        view = ShardedTensorView((*tensor.stacked_shape, *tensor.shape), dtype=torch.float32)
        values = torch.empty(end - first, *tensor.shape[1:])
        view.add(
            (*tensor.place, first, *(0 for _ in tensor.shape[1:])),
            values.view((1,) * len(tensor.place) + tuple(values.shape)),
        )
        is_adapted = self._adapters is not None and tensor.key in self._adapters.whole_shapes
        source = self._adapters.checkpoint if self._adapters is not None and is_adapted else self.checkpoint
        if self._quantized is None or is_adapted:
            read_pieces(source, {WEIGHTS_PREFIX + tensor.key: view})
        else:
            values.copy_(self._quantized.read(stored_name(tensor.key, tensor.place), first, end))
        if self._adds and self._adapters is not None and tensor.key in self._adapters.adapted:
            # The rows of a weight are read one range after the other.
            if self._update is None or self._update[0] != (tensor.key, tensor.place):
                self._update = (tensor.key, tensor.place), self._adapters.read(tensor.key, tensor.place)
            update = self._update[1]
            values += update.b[first:end] @ update.a * update.scale
        return values


def write_source(
    writer: SafetensorsWriter, rules: Sequence[TensorRule], weights: NativeWeights, *, report: Report
) -> None:
    """Write every tensor of a Hugging Face checkpoint from native weights.

    Raises:
        ConfigError: a tensor is missing in the checkpoint or has another shape, or a weight is not a finite number.
    """
    for rule in rules:
        if rule.is_transposed:
            _write_transposed(writer, rule, weights)
            report(math.prod(rule.tensor.shape))
            continue
        for first, end in row_ranges(rule.tensor.shape):
            values = weights.read(rule, first, end)
            for segment in rule.overlaps(first, end):
                part = values[segment.row - first : segment.row - first + segment.num_rows]
                _write_checked(writer, segment.name, segment.source_row, part)
            report(values.numel())


def _write_transposed(writer: SafetensorsWriter, rule: TensorRule, weights: NativeWeights) -> None:
    """Write a matrix whose columns are the native rows, which may come from several places of it."""
    values = weights.read(rule, 0, rule.tensor.shape[0])
    (name,) = {segment.name for segment in rule.segments}
    columns = torch.empty_like(values)
    for segment in rule.segments:
        columns[segment.source_row : segment.source_row + segment.num_rows] = values[
            segment.row : segment.row + segment.num_rows
        ]
    _write_checked(writer, name, 0, columns.t())


def _write_checked(writer: SafetensorsWriter, name: str, first: int, rows: torch.Tensor) -> None:
    """Write rows in their data type, unless a value is not finite there."""
    dtype = writer.dtype_of(name)
    values = rows.to(dtype)
    if bool(values.isfinite().all()):
        writer.write(name, first, values)
        return
    if bool(rows.isfinite().all()):
        short = next(short for short, known in DTYPES.items() if known == dtype)
        message, fix = f"contains values that {short} cannot hold", "Export with --dtype bf16 or fp32."
    else:
        message, fix = "contains NaN or infinity", "Use an older checkpoint of the run."
    raise ConfigError([Violation(path=name, value="", message=message, fix=fix)])
