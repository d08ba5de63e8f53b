"""Share options and output of the commands that import and export models."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.huggingface.exporting import ExportResult
    from trainer.huggingface.importing import ImportResult


def describe(result: "ImportResult | ExportResult") -> dict[str, Any]:
    """Return a result as plain values; a gate that was switched off is `off`."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}
    return {**plain, "gate": plain["gate"] or "off"}


def add_gate_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that switches off the proof."""
    parser.add_argument(
        "--gate",
        choices=("on", "off"),
        default="on",
        help="compare the logits with those of transformers, in fp32; off skips the proof (default: %(default)s)",
    )
