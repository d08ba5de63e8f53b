"""Compare the traces of two layouts, tensor by tensor, with memory for one tensor of the model at a time."""

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
    """Hold the difference of a layout's tensor to the reference's."""

    tensor: TensorName
    relative: float
    """Norm of the difference over the norm of the reference; of a weight after an update, over the norm of its change.
    If several ranks hold an element, the worst of them counts. Infinite if elements are missing or NaN."""
    by_rank: Mapping[int, float]
    """The same over the elements of one rank."""
    resolution: float = 0.0
    """Difference of one unit in the last place of every element: weights are much larger than their updates."""
    is_missing: bool = False
    """Whether elements of the reference are on no rank."""


@dataclass(frozen=True, kw_only=True)
class TraceSet:
    """Hold the trace files of all ranks of a run: of one step, or of its weights."""

    files: Sequence[TraceFile]

    def tensors(self) -> list[TensorName]:
        """Return every tensor of which a rank has a part."""
        return list(dict.fromkeys(tensor for file in self.files for tensor in file.tensors))

    def assemble(self, tensor: TensorName) -> np.ndarray:
        """Return the whole tensor, with NaN for missing elements; of several copies, the last one counts."""
        whole = np.full(tensor.shape, np.nan, dtype=np.float32)
        for file in self.files:
            for rectangle in file.rectangles(tensor):
                whole[rectangle.box] = rectangle.values
        return whole


@contextlib.contextmanager
def open_traces(folder: Path, *, num_ranks: int, step: int | None = None) -> Iterator[TraceSet]:
    """Open the traces of all ranks of a run."""
    with contextlib.ExitStack() as stack:
        paths = [trace_path(folder, rank=rank, step=step) for rank in range(num_ranks)]
        yield TraceSet(files=[stack.enter_context(TraceFile(path)) for path in paths])


def compare_traces(reference: TraceSet, other: TraceSet) -> list[Difference]:
    """Compare every tensor that either of them has."""
    known = _compared(reference)
    found = [_compare(tensor, reference, other) for tensor in known]
    names = {(tensor.direction, tensor.name): tensor for tensor in known}
    for tensor in _compared(other):
        # A shape that the reference does not have makes it another tensor.
        if names.get((tensor.direction, tensor.name)) != tensor:
            found.append(Difference(tensor=tensor, relative=math.inf, by_rank={}))
    return found


def _compared(traces: TraceSet) -> list[TensorName]:
    """Return all tensors except the weights before a step, which are those after the previous step."""
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
