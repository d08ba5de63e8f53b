"""Read metrics.jsonl of one or more runs and plot their losses: python draw_loss.py RUN_DIR [RUN_DIR ...] > loss.svg

metrics.jsonl has one JSON object per line with `kind` (`train` or `validation`), `step` and `loss`.
Everything that Weights & Biases shows is in this file.
"""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 800, 400, 50
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def read_losses(run: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of a run's training steps."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(each["step"], each["loss"]) for each in records if each["kind"] == "train" and each["loss"] is not None]


def draw(curves: dict[str, list[tuple[int, float]]]) -> str:
    """Return an SVG with one polyline per run and axes from the smallest to the largest value."""
    points = [point for curve in curves.values() for point in curve]
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    last = max(step for step, _ in points)

    def x(step: int) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * step / last

    def y(loss: float) -> float:
        return MARGIN + (HEIGHT - 2 * MARGIN) * (high - loss) / ((high - low) or 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{MARGIN},{MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" stroke="#888"/>',
        f'<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{high:.2f}</text>',
        f'<text x="{MARGIN - 6}" y="{HEIGHT - MARGIN + 4}" text-anchor="end">{low:.2f}</text>',
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 20}" text-anchor="end">step {last}</text>',
    ]
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        corners = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve)
        lines.append(f'<polyline points="{corners}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        lines.append(
            f'<text x="{WIDTH - MARGIN}" y="{MARGIN + 16 * number}" text-anchor="end" fill="{color}">{name}</text>'
        )
    return "\n".join([*lines, "</svg>"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(draw({run: read_losses(Path(run)) for run in sys.argv[1:]}))
