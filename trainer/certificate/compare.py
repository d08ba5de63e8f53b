"""Compare what two layouts wrote, tensor by tensor: memory for one tensor of the model, whatever its size."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainer.certificate.bounds import UNIT_ROUNDOFF
from trainer.certificate.trace_file import STARTS, TensorName, TraceFile, trace_path


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a tensor of a layout is from the reference's."""

    tensor: TensorName
    relative: float
    """Norm of the difference over the norm of the reference; of a weight after an update, over the norm of its change.
    Where several ranks hold an element, the worst of them counts. Infinite where elements are missing or are
    no numbers."""
    by_rank: Mapping[int, float]
    """The same over the elements that one rank holds."""
    resolution: float = 0.0
    """What one unit in the last place of every element amounts to: weights are much larger than their updates."""
    is_missing: bool = False
    """Elements that the reference has are on no rank."""


@dataclass(frozen=True, kw_only=True)
class TraceSet:
    """The files of all ranks of a run: of one step, or of its weights."""

    files: Sequence[TraceFile]

    def tensors(self) -> list[TensorName]:
        """Every tensor that a rank has a part of."""
        return list(dict.fromkeys(tensor for file in self.files for tensor in file.tensors))

    def assemble(self, tensor: TensorName) -> np.ndarray:
        """The whole tensor, NaN where no rank has it; where several have it, the last."""
        whole = np.full(tensor.shape, np.nan, dtype=np.float32)
        for file in self.files:
            for rectangle in file.rectangles(tensor):
                whole[rectangle.box] = rectangle.values
        return whole


@contextlib.contextmanager
def open_traces(folder: Path, *, num_ranks: int, step: int | None = None) -> Iterator[TraceSet]:
    """Open what all ranks of a run wrote."""
    with contextlib.ExitStack() as stack:
        paths = [trace_path(folder, rank=rank, step=step) for rank in range(num_ranks)]
        yield TraceSet(files=[stack.enter_context(TraceFile(path)) for path in paths])


def compare_traces(reference: TraceSet, other: TraceSet) -> list[Difference]:
    """Compare every tensor that either of them has."""
    known = _compared(reference)
    found = [_compare(tensor, reference, other) for tensor in known]
    names = {(tensor.direction, tensor.name): tensor for tensor in known}
    for tensor in _compared(other):
        # A shape that the reference does not have is a name of its own.
        if names.get((tensor.direction, tensor.name)) != tensor:
            found.append(Difference(tensor=tensor, relative=math.inf, by_rank={}))
    return found


def _compared(traces: TraceSet) -> list[TensorName]:
    """All but weights before a step, which are those after the step before it."""
    return [tensor for tensor in traces.tensors() if tensor.direction != "before"]


def _compare(tensor: TensorName, reference: TraceSet, other: TraceSet) -> Difference:
    expected = reference.assemble(tensor)
    scale = _scale(tensor, expected, reference)
    worst = np.full(tensor.shape, -1.0)
    by_rank = {}
    for rank, file in enumerate(other.files):
        square = 0.0
        for rectangle in file.rectangles(tensor):
            distance = np.abs(rectangle.values.astype(np.float64) - expected[rectangle.box])
            distance[np.isnan(distance)] = np.inf
            worst[rectangle.box] = np.maximum(worst[rectangle.box], distance)
            square += float(np.square(distance).sum())
        by_rank[rank] = _ratio(math.sqrt(square), scale)
    is_missing = bool((worst < 0).any())
    relative = math.inf if is_missing else _ratio(float(np.linalg.norm(worst)), scale)
    return Difference(
        tensor=tensor,
        relative=relative,
        by_rank=by_rank,
        resolution=_ratio(2 * UNIT_ROUNDOFF * float(np.linalg.norm(expected)), scale),
        is_missing=is_missing,
    )


def _scale(tensor: TensorName, expected: np.ndarray, reference: TraceSet) -> float:
    start = STARTS.get(tensor.direction)
    if start is not None:
        expected = expected - reference.assemble(replace(tensor, direction=start))
    return float(np.linalg.norm(expected.astype(np.float64)))


def _ratio(distance: float, scale: float) -> float:
    if distance == 0:
        return 0.0
    return distance / scale if scale > 0 else math.inf
