"""Geometry of a report's figures, in percent of their width, so that they fit any screen; the template draws them."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from data_tools.output.stats import EDGES
from trireme.progress import format_count

MAX_GRID_LINES = 4
NICE_STEPS = (1.0, 2.0, 5.0)
_ZEROS = re.compile(r"\.0+(?=\D|$)")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a bar."""

    kind: str
    count: int
    start: float
    """Percent of the bar's room, as width."""
    width: float


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    position: float
    """Percent of the axis."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The documents of some lengths."""

    first: int
    last: int
    """The longest that belongs to it."""
    start: float
    """Percent of the figure's width, as width."""
    width: float
    counts: dict[str, int]
    """Split -> documents."""
    heights: dict[str, float]
    """Split -> percent of the figure's height."""


@dataclass(frozen=True, kw_only=True)
class HistogramFigure:
    """How long documents are. Heights are shares of a split's own documents, so that a small split can be compared."""

    unit: str
    """What a length counts."""
    bins: list[Bin]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    medians: dict[str, Bin]
    """Split -> the bin that holds its median document."""


def stack(counts: Mapping[str, int], *, room: int) -> list[Segment]:
    """Put parts end to end.

    Args:
        counts: kind -> how many there are; kinds without any are left out.
        room: the number that would fill the bar.
    """
    segments, start = [], 0.0
    for kind, count in counts.items():
        width = 100 * count / max(room, 1)
        if count:
            segments.append(Segment(kind=kind, count=count, start=start, width=width))
        start += width
    return segments


def build_histogram(histograms: Mapping[str, Mapping[str, list[int]]], *, unit: str) -> HistogramFigure | None:
    """Lay out histograms of `LengthHistogram.to_dict` over each other; None where all are empty.

    Args:
        histograms: split -> edges and counts.
    """
    filled = {split: found for split, found in histograms.items() if found["counts"]}
    if not filled:
        return None
    first = min(found["edges"][0] for found in filled.values())
    last = max(found["edges"][-1] for found in filled.values())
    edges = EDGES[(first <= EDGES) & (last >= EDGES)]
    counts = {split: _spread(found, edges) for split, found in filled.items()}
    shares = {split: numbers / numbers.sum() for split, numbers in counts.items()}
    step = _nice_step(max(float(share.max()) for share in shares.values()))
    top = step * math.ceil(max(float(share.max()) for share in shares.values()) / step - 1e-9)
    width = 100 / (len(edges) - 1)
    bins = [
        Bin(
            first=int(edges[number]),
            last=int(edges[number + 1]) - 1,
            start=number * width,
            width=width,
            counts={split: int(numbers[number]) for split, numbers in counts.items()},
            heights={split: 100 * float(share[number]) / top for split, share in shares.items()},
        )
        for number in range(len(edges) - 1)
    ]
    medians = {split: bins[int(np.searchsorted(np.cumsum(share), 0.5 - 1e-12))] for split, share in shares.items()}
    lines = [number * step for number in range(1, round(top / step) + 1)]
    y_ticks = [Tick(position=100 * value / top, label=f"{100 * value:g}%") for value in lines]
    return HistogramFigure(unit=unit, bins=bins, x_ticks=list(_length_ticks(edges)), y_ticks=y_ticks, medians=medians)


def _spread(histogram: Mapping[str, list[int]], edges: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(edges) - 1, np.int64)
    start = int(np.searchsorted(edges, histogram["edges"][0]))
    counts[start : start + len(histogram["counts"])] = histogram["counts"]
    return counts


def _nice_step(largest: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... thousandths and so on that needs few lines up to a value."""
    scale = 10.0 ** math.floor(math.log10(largest / MAX_GRID_LINES))
    steps = [factor * power for power in (scale, 10 * scale) for factor in NICE_STEPS]
    return next(step for step in steps if largest / step <= MAX_GRID_LINES + 1e-9)


def _length_ticks(edges: np.ndarray) -> Iterable[Tick]:
    """Powers of ten; over a short range also twice and five times of them."""
    low, high = max(int(edges[0]), 1), int(edges[-1])
    factors = (1,) if high / low > 500 else (1, 2, 5)
    places = np.arange(len(edges)) * 100 / (len(edges) - 1)
    for power in range(len(str(high))):
        for factor in factors:
            value = factor * 10**power
            if low <= value <= high:
                # Bins have one width; between edges, lengths are placed by their logarithm.
                position = np.interp(math.log(value), np.log(np.maximum(edges, 0.5)), places)
                yield Tick(position=float(position), label=_ZEROS.sub("", format_count(value)))
