"""Map tensors of Hugging Face checkpoints to Trireme's and back: one rule per tensor, for both directions, by rows.

A rule says which rows of a native tensor are which rows of which Hugging Face tensor. Fused query-key-value matrices,
gate and up branches, transposed matrices and experts differ in nothing else, so reading and writing know rules only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.config.model import ModelConfig
from trainer.huggingface.native_tensors import NativeTensor, list_native_tensors


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Say that consecutive rows of a native tensor are consecutive rows of a Hugging Face tensor."""

    name: str
    """Of the Hugging Face tensor."""
    row: int
    """First row in the native tensor."""
    source_row: int
    """First row in the Hugging Face tensor; first column if the rule is transposed."""
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Hold the origin of each row of a native tensor. Rows that no segment covers are the vocabulary's padding."""

    tensor: NativeTensor
    segments: tuple[Segment, ...]
    is_transposed: bool = False
    """Hugging Face stores [in, out], as GPT-2's Conv1D does."""

    def overlaps(self, first: int, end: int) -> Iterator[Segment]:
        """Yield the parts of the segments within native rows [first, end)."""
        for segment in self.segments:
            low, high = max(first, segment.row), min(end, segment.row + segment.num_rows)
            if low < high:
                shift = low - segment.row
                yield Segment(name=segment.name, row=low, source_row=segment.source_row + shift, num_rows=high - low)


@dataclass(frozen=True, kw_only=True)
class Same:
    """Take the tensor as it is. `{layer}` and `{expert}` in names are replaced by numbers, from 0."""

    name: str
    is_transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Stack two tensors of equal size: the activated branch of a gated MLP (gate) above the other one (up)."""

    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class FusedQkv:
    """Interleave query, key and value rows by group: the group's query heads, its key head, its value head.

    Hugging Face's heads have the same order: query heads i * n / g to (i + 1) * n / g - 1 belong to group i.
    """

    query: str
    key: str
    value: str
    """One name for all three means one tensor of the three, one after the other, as GPT-2 stores it."""
    is_transposed: bool = False


Mapped = Same | Halves | FusedQkv
Names = Mapping[str, Mapped]
"""What each native tensor is made of, by `NativeTensor.name`."""


class UnmappedTensorError(ValueError):
    """Some tensors of a model have no place in a family's checkpoint."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"has no place for {', '.join(names)}")
        self.names = tuple(names)


def build_rules(model: ModelConfig, names: Names, *, vocab_size: int, padded_vocab_size: int) -> list[TensorRule]:
    """Return the rule of every tensor of a model.

    Args:
        model: its configuration.
        names: of the family.
        vocab_size: rows of the embedding in the Hugging Face checkpoint.
        padded_vocab_size: rows of the native embedding.
    Raises:
        UnmappedTensorError: the family has no tensor for some of the model's.
    """
    tensors = list_native_tensors(model, padded_vocab_size=padded_vocab_size)
    missing = sorted({tensor.name for tensor in tensors if tensor.name not in names})
    if missing:
        raise UnmappedTensorError(missing)
    return [_build_rule(tensor, names[tensor.name], model=model, vocab_size=vocab_size) for tensor in tensors]


def _build_rule(tensor: NativeTensor, mapped: Mapped, *, model: ModelConfig, vocab_size: int) -> TensorRule:
    num_rows = tensor.shape[0]
    if tensor.name in ("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias"):
        num_rows = vocab_size
    if isinstance(mapped, Same):
        segments = [Segment(name=_fill(mapped.name, tensor), row=0, source_row=0, num_rows=num_rows)]
        return TensorRule(tensor=tensor, segments=tuple(segments), is_transposed=mapped.is_transposed)
    if isinstance(mapped, Halves):
        half = num_rows // 2
        names = _fill(mapped.first, tensor), _fill(mapped.second, tensor)
        segments = [
            Segment(name=name, row=index * half, source_row=0, num_rows=half) for index, name in enumerate(names)
        ]
        return TensorRule(tensor=tensor, segments=tuple(segments))
    segments = list(_interleave(mapped, tensor, model=model))
    return TensorRule(tensor=tensor, segments=tuple(segments), is_transposed=mapped.is_transposed)


def _interleave(mapped: FusedQkv, tensor: NativeTensor, *, model: ModelConfig) -> Iterator[Segment]:
    d, num_groups = model.head_size, model.num_query_groups
    queries = model.num_attention_heads // num_groups * d
    is_one = mapped.query == mapped.key == mapped.value
    starts = (0, num_groups * queries, num_groups * (queries + d)) if is_one else (0, 0, 0)
    names = [_fill(name, tensor) for name in (mapped.query, mapped.key, mapped.value)]
    row = 0
    for group in range(num_groups):
        for name, start, size in zip(names, starts, (queries, d, d), strict=True):
            yield Segment(name=name, row=row, source_row=start + group * size, num_rows=size)
            row += size


def _fill(name: str, tensor: NativeTensor) -> str:
    return name.format(layer=tensor.layer, expert=tensor.expert)


@dataclass(frozen=True, kw_only=True)
class SourceTensor:
    """Hold the name and shape of a tensor in a Hugging Face checkpoint."""

    name: str
    shape: tuple[int, ...]


def list_source_tensors(rules: Sequence[TensorRule]) -> list[SourceTensor]:
    """List the Hugging Face tensors that rules read or write, in their order."""
    rows: dict[str, int] = {}
    trailing: dict[str, tuple[tuple[int, ...], bool]] = {}
    for rule in rules:
        for segment in rule.segments:
            rows[segment.name] = max(rows.get(segment.name, 0), segment.source_row + segment.num_rows)
            trailing[segment.name] = rule.tensor.shape[1:], rule.is_transposed
    return [
        SourceTensor(name=name, shape=(*rest, count) if is_transposed else (count, *rest))
        for name, count in rows.items()
        for rest, is_transposed in (trailing[name],)
    ]


Kind = Literal["missing", "unexpected", "shape"]


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """Hold one tensor of a Hugging Face checkpoint that does not fit its config.json."""

    name: str
    kind: Kind
    message: str


def find_misfits(
    rules: Sequence[TensorRule], shapes: Mapping[str, tuple[int, ...]], *, ignored: Sequence[str] = ()
) -> list[Misfit]:
    """Compare the tensors that rules need with those of a checkpoint.

    Args:
        rules: of the model.
        shapes: of the checkpoint's tensors, by name.
        ignored: names that may be there without effect.
    """
    wanted = {tensor.name: tensor.shape for tensor in list_source_tensors(rules)}
    misfits = [
        Misfit(name=name, kind="missing", message=f"is missing; config.json calls for it with shape {list(shape)}")
        for name, shape in wanted.items()
        if name not in shapes
    ]
    misfits += [
        Misfit(
            name=name,
            kind="shape",
            message=f"has shape {list(shapes[name])}, but config.json calls for {list(shape)}",
        )
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    misfits += [
        Misfit(name=name, kind="unexpected", message="is no tensor of the model that config.json describes")
        for name in shapes
        if name not in wanted and name not in ignored
    ]
    return misfits
