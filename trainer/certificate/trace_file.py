"""Write and read a rank's parts of global tensors, by name and offset, one tensor at a time.

A tensor's name and shape and the offset of each part are those of the unsharded model, so that layouts whose ranks hold
different parts can be compared.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

Direction = Literal["initial", "forward", "backward", "gradient", "before", "update", "final"]
"""Of a tensor: weight before step 0; activation; its gradient; a weight's gradient over the global batch; weight before
and after the step; weight after the last step."""

STARTS: dict[Direction, Direction] = {"update": "before", "final": "initial"}
"""The difference of an updated weight is relative to its change: from which other weight."""

INDEX = "index"


@dataclass(frozen=True, kw_only=True)
class TensorName:
    """Identify a tensor of the unsharded model."""

    direction: Direction
    name: str
    """`layer 3 mlp`, or the name of a parameter."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    order: tuple[int, int]
    """Position in the forward pass: layer (0: embedding, one past the last: what follows it), and position in it."""


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """Hold one rank's rectangular part of a tensor."""

    tensor: TensorName
    offset: tuple[int, ...]
    """Where it starts in the whole tensor."""
    values: np.ndarray
    """fp32, with as many axes as the tensor."""

    @property
    def box(self) -> tuple[slice, ...]:
        """Its index in the whole tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offset, self.values.shape, strict=True))


class TraceWriter:
    """Collect rectangles and write them as one .npz file."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._index: list[dict[str, object]] = []

    def add(self, rectangle: Rectangle) -> None:
        """Add a rectangle whose values no longer change."""
        key = str(len(self._index))
        self._arrays[key] = rectangle.values
        self._index.append({**asdict(rectangle.tensor), "offset": rectangle.offset})

    def divide(self, direction: Direction, divisor: float) -> None:
        """Divide every tensor of a direction, when its scale is known."""
        for key, entry in enumerate(self._index):
            if entry["direction"] == direction:
                self._arrays[str(key)] /= divisor

    def save(self, path: Path) -> None:
        """Write the file."""
        np.savez(path, allow_pickle=False, **{INDEX: np.array(json.dumps(self._index))}, **self._arrays)


class TraceFile:
    """Read one rank's file; arrays are loaded on demand. `with` closes it."""

    def __init__(self, path: Path) -> None:
        self._archive = np.load(path, allow_pickle=False)
        self._entries: dict[TensorName, list[tuple[str, tuple[int, ...]]]] = {}
        for key, entry in enumerate(json.loads(str(self._archive[INDEX]))):
            offset = tuple(entry.pop("offset"))
            name = TensorName(**{**entry, "shape": tuple(entry["shape"]), "order": tuple(entry["order"])})
            self._entries.setdefault(name, []).append((str(key), offset))

    @property
    def tensors(self) -> Sequence[TensorName]:
        """Tensors of which this rank held a part."""
        return list(self._entries)

    def rectangles(self, tensor: TensorName) -> Iterator[Rectangle]:
        """Yield this rank's parts of a tensor."""
        for key, offset in self._entries.get(tensor, ()):
            yield Rectangle(tensor=tensor, offset=offset, values=self._archive[key])

    def __enter__(self) -> "TraceFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()


def trace_path(folder: Path, *, rank: int, step: int | None = None) -> Path:
    """Return the path of one rank's file: of a step, or of the weights before the first and after the last step."""
    name = "weights" if step is None else f"step_{step:05d}"
    return folder / f"{name}_rank_{rank:03d}.npz"
