"""Traces written by made-up ranks: every kind of difference is found, and nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from trainer.certificate.compare import Difference, compare_traces, open_traces
from trainer.certificate.culprit import find_culprit
from trainer.certificate.trace_file import Direction, Rectangle, TensorName, TraceWriter, trace_path
from trainer.certificate.verdict import Series

WHOLE = np.arange(1, 25, dtype=np.float32).reshape(4, 6)


def name(direction: Direction = "forward", text: str = "layer 1 MLP", order: tuple[int, int] = (1, 7)) -> TensorName:
    return TensorName(direction=direction, name=text, shape=WHOLE.shape, order=order)


def part(rows: slice, columns: slice, *, tensor: TensorName | None = None, whole: np.ndarray = WHOLE) -> Rectangle:
    return Rectangle(
        tensor=tensor or name(), offset=(rows.start, columns.start), values=whole[rows, columns].astype(np.float32)
    )


def write(folder: Path, ranks: Sequence[Sequence[Rectangle]]) -> Path:
    folder.mkdir()
    for rank, rectangles in enumerate(ranks):
        writer = TraceWriter()
        for rectangle in rectangles:
            writer.add(rectangle)
        writer.save(trace_path(folder, rank=rank, step=0))
    return folder


def compare(
    tmp_path: Path, ranks: Sequence[Sequence[Rectangle]], *, tensors: Sequence[TensorName] = ()
) -> list[Difference]:
    expected = [part(slice(0, 4), slice(0, 6), tensor=tensor) for tensor in tensors or [name()]]
    reference, other = write(tmp_path / "reference", [expected]), write(tmp_path / "other", ranks)
    with (
        open_traces(reference, num_ranks=1, step=0) as a,
        open_traces(other, num_ranks=len(ranks), step=0) as b,
    ):
        return compare_traces(a, b)


def test_cut_and_copied_tensors_are_equal(tmp_path: Path) -> None:
    top, bottom = slice(0, 2), slice(2, 4)
    left, right = slice(0, 3), slice(3, 6)
    (difference,) = compare(
        tmp_path, [[part(top, left), part(bottom, left)], [part(top, right), part(bottom, slice(0, 6))]]
    )
    assert difference.relative == 0.0
    assert not difference.is_missing


def test_difference_is_relative_and_names_the_rank(tmp_path: Path) -> None:
    changed = WHOLE.copy()
    changed[3, 5] += 1
    (difference,) = compare(
        tmp_path, [[part(slice(0, 2), slice(0, 6))], [part(slice(2, 4), slice(0, 6), whole=changed)]]
    )
    assert difference.relative == pytest.approx(1 / np.linalg.norm(WHOLE))
    assert difference.by_rank[0] == 0.0
    assert difference.by_rank[1] == difference.relative


def test_a_bad_copy_counts_whichever_rank_has_it(tmp_path: Path) -> None:
    both = slice(0, 4), slice(0, 6)
    (difference,) = compare(tmp_path, [[part(*both, whole=2 * WHOLE)], [part(*both)]])
    assert difference.relative == pytest.approx(1.0)
    assert difference.by_rank == {0: pytest.approx(1.0), 1: 0.0}


def test_missing_elements_and_nan_are_infinitely_different(tmp_path: Path) -> None:
    (difference,) = compare(tmp_path, [[part(slice(0, 3), slice(0, 6))]])
    assert difference.is_missing
    assert math.isinf(difference.relative)

    bad = WHOLE.copy()
    bad[0, 0] = np.nan
    (tmp_path / "second").mkdir()
    (difference,) = compare(tmp_path / "second", [[part(slice(0, 4), slice(0, 6), whole=bad)]])
    assert not difference.is_missing
    assert math.isinf(difference.relative)


def test_a_tensor_that_the_reference_does_not_have_is_reported(tmp_path: Path) -> None:
    both = slice(0, 4), slice(0, 6)
    found = compare(tmp_path, [[part(*both), part(*both, tensor=name(text="layer 9 MLP"))]])
    assert [(d.tensor.name, d.relative) for d in found] == [("layer 1 MLP", 0.0), ("layer 9 MLP", math.inf)]


def test_trained_weights_are_measured_against_how_far_they_moved(tmp_path: Path) -> None:
    both = slice(0, 4), slice(0, 6)
    initial, final = name("initial", "w"), name("final", "w")
    moved = WHOLE + 0.25
    reference = write(tmp_path / "reference", [[part(*both, tensor=initial), part(*both, tensor=final, whole=moved)]])
    other = write(tmp_path / "other", [[part(*both, tensor=initial), part(*both, tensor=final, whole=WHOLE + 0.5)]])
    with open_traces(reference, num_ranks=1, step=0) as a, open_traces(other, num_ranks=1, step=0) as b:
        found = {d.tensor.direction: d.relative for d in compare_traces(a, b)}
    assert found == {"initial": 0.0, "final": pytest.approx(1.0)}


ORDERED: list[tuple[Direction, str, tuple[int, int]]] = [
    ("forward", "layer 1 output", (1, 8)),
    ("forward", "layer 2 output", (2, 8)),
    ("backward", "layer 2 output", (2, 8)),
    ("gradient", "layer 2 weight", (2, 0)),
    ("backward", "layer 1 output", (1, 8)),
    ("gradient", "layer 1 weight", (1, 0)),
    ("update", "layer 1 weight", (1, 0)),
    ("update", "layer 2 weight", (2, 0)),
]


@pytest.mark.parametrize("first", range(len(ORDERED)))
def test_culprit_is_first_in_the_order_of_computation(first: int) -> None:
    names = [TensorName(direction=d, name=n, shape=(1,), order=o) for d, n, o in ORDERED]
    differences = [
        Difference(tensor=tensor, relative=1e-3 if place >= first else 1e-8, by_rank={0: 1e-9, 1: 1e-3})
        for place, tensor in enumerate(names)
    ]
    bounds = {(tensor.direction, tensor.name): 1e-6 for tensor in names}
    culprit = find_culprit(differences[::-1], bounds=bounds, step=3, grad_norm=None)
    assert culprit is not None
    assert (culprit.direction, culprit.name) == ORDERED[first][:2]
    assert culprit.ranks == [1]
    assert len(culprit.also) == len(ORDERED) - first - 1
    assert find_culprit(differences, bounds=dict.fromkeys(bounds, 1.0), step=3, grad_norm=None) is None


def test_a_wrong_gradient_norm_is_distinguished_from_wrong_gradients() -> None:
    names = [TensorName(direction="gradient", name=f"w{n}", shape=(1,), order=(n, 0)) for n in range(3)]
    bounds = {(tensor.direction, tensor.name): 1e-6 for tensor in names}
    off = [Difference(tensor=tensor, relative=0.1, by_rank={0: 0.1}) for tensor in names]
    norm = Series(differences=[0.1], bounds=[1e-6])
    culprit = find_culprit(off, bounds=bounds, step=0, grad_norm=norm)
    assert culprit is not None and culprit.direction is None
    assert "the gradient norm deviates by 1.0e-01" in str(culprit)

    one_off = [off[0], *(Difference(tensor=tensor, relative=0.0, by_rank={0: 0.0}) for tensor in names[1:])]
    culprit = find_culprit(one_off, bounds=bounds, step=0, grad_norm=norm)
    assert culprit is not None and culprit.name == "w0"
