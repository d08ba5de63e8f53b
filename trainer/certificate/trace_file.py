"""Files of rectangles of global tensors: what one rank held, by name and place, read back one tensor at a time.

A tensor's name and shape and the place of each rectangle are those of the model that no layout cuts, so that layouts
whose ranks hold other parts can be compared.
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
"""A weight that an update changed is measured against how far it moved: from which other weight."""

INDEX = "index"


@dataclass(frozen=True, kw_only=True)
class TensorName:
    """Which tensor of the model that no layout cuts."""

    direction: Direction
    name: str
    """`layer 3 mlp`, or the name of a parameter."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    order: tuple[int, int]
    """Place in the forward pass: layer (0 the embedding, one past the last layer what follows it), and place in it."""


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A part of a tensor, as one rank holds it."""

    tensor: TensorName
    offset: tuple[int, ...]
    """Where it starts in the whole tensor."""
    values: np.ndarray
    """fp32, with as many axes as the tensor."""

    @property
    def box(self) -> tuple[slice, ...]:
        """Its place as an index of the whole tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offset, self.values.shape, strict=True))


class TraceWriter:
    """Collects rectangles and writes them as one .npz."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._index: list[dict[str, object]] = []

    def add(self, rectangle: Rectangle) -> None:
        """Add a rectangle whose values nobody changes any more."""
        key = str(len(self._index))
        self._arrays[key] = rectangle.values
        self._index.append({**asdict(rectangle.tensor), "offset": rectangle.offset})

    def divide(self, direction: Direction, divisor: float) -> None:
        """Divide every tensor of a direction, once what scaled it is known."""
        for key, entry in enumerate(self._index):
            if entry["direction"] == direction:
                self._arrays[str(key)] /= divisor

    def save(self, path: Path) -> None:
        """Write the file."""
        np.savez(path, allow_pickle=False, **{INDEX: np.array(json.dumps(self._index))}, **self._arrays)


class TraceFile:
    """One rank's file; arrays are read when they are asked for. `with` closes it."""

    def __init__(self, path: Path) -> None:
        self._archive = np.load(path, allow_pickle=False)
        self._entries: dict[TensorName, list[tuple[str, tuple[int, ...]]]] = {}
        for key, entry in enumerate(json.loads(str(self._archive[INDEX]))):
            offset = tuple(entry.pop("offset"))
            name = TensorName(**{**entry, "shape": tuple(entry["shape"]), "order": tuple(entry["order"])})
            self._entries.setdefault(name, []).append((str(key), offset))

    @property
    def tensors(self) -> Sequence[TensorName]:
        """Tensors that this rank held a part of."""
        return list(self._entries)

    def rectangles(self, tensor: TensorName) -> Iterator[Rectangle]:
        """This rank's parts of a tensor."""
        for key, offset in self._entries.get(tensor, ()):
            yield Rectangle(tensor=tensor, offset=offset, values=self._archive[key])

    def __enter__(self) -> "TraceFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()


def trace_path(folder: Path, *, rank: int, step: int | None = None) -> Path:
    """One rank's file: of a step, or of the weights before the first and after the last."""
    name = "weights" if step is None else f"step_{step:05d}"
    return folder / f"{name}_rank_{rank:03d}.npz"
