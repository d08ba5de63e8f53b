"""Render a plan as one self-contained HTML page: no scripts, no network requests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.plan.memory import GIB, Memory
from launch.plan.plan import Plan
from launch.plan.table import PART_NAMES, candidate_cells, copyable, describe, prediction_facts
from launch.plan.timeline import Work
from trireme.files import write_whole

TEMPLATE_NAME = "page.html.j2"
_WIDTH, _HEIGHT = 1000.0, 320.0
"""Size of a chart, in its own units."""
_MAX_REFUSALS = 400


@dataclass(frozen=True, kw_only=True)
class Box:
    """Describe a rectangle of a chart, with its label."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """Describe a point of a chart."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Hold the ticks of an axis: position and text."""

    ticks: tuple[tuple[float, str], ...]


def render_page(plan: Plan) -> str:
    """Return the page of a plan."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    prediction = plan.prediction
    return environment.get_template(TEMPLATE_NAME).render(
        plan=plan,
        facts=prediction_facts(prediction) if prediction else [],
        memory=memory_boxes(prediction.stages, prediction.device_memory_bytes) if prediction else [],
        memory_limit=_HEIGHT * (1 - 1 / _headroom(prediction.stages, prediction.device_memory_bytes))
        if prediction
        else 0,
        memory_parts=_parts(prediction.stages) if prediction else [],
        stages=[f"{float(stage.total) / GIB:.1f}" for stage in prediction.stages] if prediction else [],
        time=time_boxes(plan) if prediction else [],
        timeline=timeline_boxes(plan.timeline),
        num_stages=1 + max((work.stage for work in plan.timeline), default=0),
        front=place_points(plan),
        best=[(candidate_cells(candidate, plan.num_devices), copyable(candidate.overrides)) for candidate in plan.best],
        refusals=[
            (refusal.layout, refusal.reason, [describe(near) for near in refusal.nearest])
            for refusal in plan.refusals[:_MAX_REFUSALS]
        ],
        copyable=copyable,
        part_names=PART_NAMES,
        width=_WIDTH,
        height=_HEIGHT,
    )


def _headroom(stages: Sequence[Memory], limit: float) -> float:
    """Return the height of the memory chart as a multiple of the device memory."""
    return max(1.1, 1.05 * max(float(stage.total) for stage in stages) / limit)


def _parts(stages: Sequence[Memory]) -> list[str]:
    return [name for name in vars(stages[0]) if any(getattr(stage, name) for stage in stages)]


def memory_boxes(stages: Sequence[Memory], limit: float) -> list[Box]:
    """Stack the parts of the memory of each stage."""
    whole = _headroom(stages, limit) * limit
    step = _WIDTH / len(stages)
    boxes = []
    for index, stage in enumerate(stages):
        top = _HEIGHT
        for name, size in vars(stage).items():
            height = float(size) / whole * _HEIGHT
            top -= height
            if height > 0:
                label = f"stage {index}, {PART_NAMES[name]}: {float(size) / GIB:.2f} GiB"
                boxes.append(Box(x=step * index, y=top, width=step * 0.85, height=height, kind=name, label=label))
    return boxes


def time_boxes(plan: Plan) -> list[Box]:
    """Place the parts of a step next to each other."""
    assert plan.prediction is not None
    times, place, boxes = plan.prediction.step_time, 0.0, []
    whole = float(times.total)
    for name, seconds in vars(times).items():
        width = float(seconds) / whole * _WIDTH
        if width > 0:
            label = f"{PART_NAMES[name]}: {float(seconds):.4g} s, {float(seconds) / whole:.1%}"
            boxes.append(Box(x=place, y=0, width=width, height=40, kind=name, label=label))
        place += width
    return boxes


def timeline_boxes(timeline: Sequence[Work]) -> list[Box]:
    """Place every pass of every stage."""
    if not timeline:
        return []
    end = max(work.end for work in timeline)
    row = 22.0
    boxes = []
    for work in timeline:
        kind = "backward" if work.is_backward else "forward"
        chunk = f", chunk {work.chunk}" if any(each.chunk for each in timeline) else ""
        label = (
            f"stage {work.stage}{chunk}, micro batch {work.micro_batch}, {kind}: {work.start:.4g} to {work.end:.4g} s"
        )
        x, width = work.start / end * _WIDTH, (work.end - work.start) / end * _WIDTH
        shade = f"{kind} odd" if work.chunk % 2 else kind
        boxes.append(Box(x=x, y=row * work.stage, width=width, height=row - 3, kind=shade, label=label))
    return boxes


@dataclass(frozen=True, kw_only=True)
class FrontPlot:
    """Hold the points of the chart of throughput against memory."""

    all_points: tuple[Dot, ...]
    pareto_front: tuple[Dot, ...]
    """Layouts for which no other is both faster and smaller."""
    limit: float
    """Position of the device memory."""
    memory: Scale
    speed: Scale


def place_points(plan: Plan) -> FrontPlot:
    """Place the layouts: memory on a logarithmic x axis, tokens per second on a linear y axis from 0."""
    points = [*plan.all_points, *((each.memory_bytes, each.tokens_per_second) for each in plan.pareto_front)]
    points = [point for point in points if point[0] < 8 * plan.device_memory_bytes]
    least = min((point[0] for point in points), default=GIB) * 0.9
    most = max([point[0] for point in points] + [plan.device_memory_bytes]) * 1.1
    fastest = max((point[1] for point in points), default=1.0) * 1.05
    span = math.log(most / least)

    def place(size: float, speed: float) -> tuple[float, float]:
        return math.log(size / least) / span * _WIDTH, _HEIGHT * (1 - speed / fastest)

    def dot(size: float, speed: float, label: str) -> Dot:
        x, y = place(size, speed)
        return Dot(x=x, y=y, label=label)

    ticks = [2.0**power for power in range(-6, 14) if least < 2.0**power * GIB < most]
    step = 10 ** math.floor(math.log10(fastest / 2))
    speeds = [step * count for count in range(1, 20) if step * count < fastest]
    return FrontPlot(
        all_points=tuple(
            dot(size, speed, "") for size, speed in plan.all_points if size < 8 * plan.device_memory_bytes
        ),
        pareto_front=tuple(
            dot(each.memory_bytes, each.tokens_per_second, describe(each)) for each in plan.pareto_front
        ),
        limit=place(plan.device_memory_bytes, 0)[0],
        memory=Scale(ticks=tuple((place(size * GIB, 0)[0], f"{size:g} GiB") for size in ticks)),
        speed=Scale(ticks=tuple((place(least, speed)[1], f"{speed:,.0f}") for speed in speeds)),
    )


def write_page(plan: Plan, path: Path) -> None:
    """Write the page atomically."""
    write_whole(path, render_page(plan))
