"""Print a plan on the terminal."""

import os
import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from launch.plan.memory import GIB
from launch.plan.plan import Plan
from launch.plan.predict import Prediction
from launch.plan.ranking import Candidate, Refusal, describe_layout
from trireme.progress import format_count

PART_NAMES = {
    "compute": "computation",
    "recompute": "recomputation",
    "tensor_parallel": "exposed tensor-parallel communication",
    "context_parallel": "exposed context-parallel communication",
    "expert_parallel": "exposed expert-parallel communication",
    "pipeline_parallel": "exposed pipeline communication",
    "data_parallel": "exposed data-parallel communication",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer",
    "data": "data",
    "other": "other",
    "weights": "weights",
    "gradients": "gradients",
    "activations": "activations",
    "logits": "logits",
    "communication": "communication buffers",
    "reserve": "fragmentation and workspaces",
    "context": "driver and libraries",
}
"""Labels of the parts of step time and memory."""


_PIPED_WIDTH = 250
"""Width of output to a file or a pipe, in columns: the widest table fits."""


def open_console() -> Console:
    """Return a console that truncates nothing unless a terminal limits its width; COLUMNS overrides the width."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=_PIPED_WIDTH)
    return console


def print_plan(plan: Plan, console: Console) -> None:
    """Print the configured layout, the best layouts and the rejected ones."""
    console.print(f"[bold]{plan.title}[/bold]", soft_wrap=True)
    for note in plan.notes:
        console.print(f"[yellow]{note}[/yellow]", soft_wrap=True)
    if plan.configured_refusal is not None:
        _print_refused("The configured layout cannot be used", [plan.configured_refusal], console)
    if plan.prediction is not None:
        fits = "" if plan.configured_refusal is None else ", if it fit"
        _print_prediction(plan.prediction, console, title=f"Configured layout{fits}: {plan.configured_layout}")
    _print_best(plan, console)
    if plan.refusals:
        shown = plan.refusals[: plan.num_shown_refusals]
        title = f"Rejected parallel sizes ({len(shown)} of {len(plan.refusals)}) and the nearest valid layouts"
        _print_refused(title, shown, console)
    for line in plan.error_bars:
        console.print(f"[dim]{line}[/dim]", soft_wrap=True)


def _print_prediction(prediction: Prediction, console: Console, *, title: str) -> None:
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in prediction_facts(prediction):
        table.add_row(label, value)
    console.print(table)
    parts = Table(title=f"Step time, and memory of the fullest pipeline stage ({prediction.fullest_stage})")
    for column in ("time", "seconds", "share", "memory", "GiB", "share "):
        parts.add_column(column, justify="left" if column in ("time", "memory") else "right")
    times = [(PART_NAMES[name], value) for name, value in vars(prediction.step_time).items() if value]
    stage = prediction.stages[prediction.fullest_stage]
    bytes_of = [(PART_NAMES[name], value) for name, value in vars(stage).items() if value]
    for row in range(max(len(times), len(bytes_of))):
        left, right = ("", "", ""), ("", "", "")
        if row < len(times):
            name, seconds = times[row]
            left = (name, f"{seconds:.3f}", f"{seconds / float(prediction.step_time.total):.0%}")
        if row < len(bytes_of):
            name, size = bytes_of[row]
            right = (name, f"{size / GIB:.1f}", f"{size / float(stage.total):.0%}")
        parts.add_row(*left, *right)
    console.print(parts)


def prediction_facts(prediction: Prediction) -> list[tuple[str, str]]:
    """Return the main figures with their labels."""
    count = format_count(prediction.num_tokens)
    facts = [
        ("step time", f"{float(prediction.step_time.total):.3g} s"),
        ("tokens per second", f"{prediction.tokens_per_second:,.0f}"),
        ("model FLOP/s per device", f"{prediction.model_flops_per_second / 1e12:.1f} TFLOP/s"),
        ("MFU", f"{prediction.mfu:.1%}"),
        (
            "peak memory per device",
            f"{prediction.peak_bytes / GIB:.1f} of {prediction.device_memory_bytes / GIB:.0f} GiB",
        ),
        ("checkpoint size", f"{prediction.checkpoint_bytes / 1e9:,.1f} GB"),
        (f"time for {count} tokens", _format_days(prediction.days)),
    ]
    if prediction.cost is not None and prediction.price_per_hour is not None:
        price = f"{prediction.price_per_hour:,.2f} USD per device and hour"
        facts.append((f"cost of {count} tokens", f"{prediction.cost:,.0f} USD, at {price}"))
    return facts


def _format_days(days: float) -> str:
    """Write a time in hours, by which devices are paid, and in days from two days on."""
    hours = f"{24 * days:,.0f}" if 24 * days >= 100 else f"{24 * days:.3g}"
    return f"{days:,.1f} days ({hours} hours)" if days >= 2 else f"{hours} hours"


def _print_best(plan: Plan, console: Console) -> None:
    if not plan.best:
        return
    title = (
        f"Best layouts, one per combination of parallel sizes ({plan.num_fitting:,} of {plan.num_valid:,} valid"
        " layouts fit)"
    )
    table = Table(title=title)
    columns = (
        "parallel sizes",
        "vp",
        "micro batch",
        "recompute",
        "engine",
        "step (s)",
        "tokens/s",
        "per device",
        "GiB",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("parallel sizes", "recompute", "engine") else "right")
    for candidate in plan.best:
        table.add_row(*candidate_cells(candidate, plan.num_devices))
    console.print(table)
    console.print("Overrides of the best layout, to copy:")
    console.print(copyable(plan.best[0].overrides), soft_wrap=True, markup=False, highlight=False)


def copyable(overrides: Sequence[str]) -> str:
    """Return overrides as one line for a shell."""
    return shlex.join(overrides)


def candidate_cells(candidate: Candidate, num_devices: int) -> tuple[str, ...]:
    """Return a layout as a row of a table."""
    experts = f" etp{candidate.etp}" if candidate.etp != candidate.sizes.tp else ""
    return (
        f"{candidate.sizes}{experts}",
        str(candidate.vp) if candidate.vp > 1 else "",
        str(candidate.micro_batch_size),
        candidate.recompute,
        candidate.engine,
        f"{candidate.step_seconds:.3g}",
        f"{candidate.tokens_per_second:,.0f}",
        f"{candidate.tokens_per_second / num_devices:,.0f}",
        f"{candidate.memory_bytes / GIB:.1f}",
    )


def _print_refused(title: str, refusals: Sequence[Refusal], console: Console) -> None:
    # When no layout can be used, the notes at the top suggest other settings.
    has_nearest = any(refusal.nearest for refusal in refusals)
    table = Table(title=title if has_nearest else title.removesuffix(" and the nearest valid layouts"))
    for column in ("layout", "reason", "nearest valid layouts")[: 3 if has_nearest else 2]:
        table.add_column(column, overflow="fold")
    for refusal in refusals:
        near = "\n".join(describe(candidate) for candidate in refusal.nearest)
        table.add_row(refusal.layout, refusal.reason, *([near] if has_nearest else []))
    console.print(table)


def describe(candidate: Candidate) -> str:
    """Return a layout and its speed in one line."""
    layout = describe_layout(
        candidate.sizes,
        vp=candidate.vp,
        micro_batch_size=candidate.micro_batch_size,
        recompute=candidate.recompute,
        engine=candidate.engine,
    )
    return f"{layout}: {candidate.tokens_per_second:,.0f} tokens/s"
