"""Share options and output of the commands that import and export models."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trireme.stop_signals import SIGNAL_BASE, unwinding_on_signals

if TYPE_CHECKING:
    from trainer.huggingface.adapter_files import AdapterResult
    from trainer.huggingface.exporting import ExportResult
    from trainer.huggingface.importing import ImportResult


def describe(result: "ImportResult | ExportResult | AdapterResult") -> dict[str, Any]:
    """Return a result as plain values; a gate that was switched off is `off`."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}
    return {**plain, "gate": plain["gate"] or "off"}


def add_base_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the weights beneath adapters."""
    parser.add_argument(
        "--base",
        type=Path,
        metavar="PATH",
        help="where the base checkpoint of adapters is now (default: the path that they name)",
    )


def add_gate_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that switches off the proof."""
    parser.add_argument(
        "--gate",
        choices=("on", "off"),
        default="on",
        help="compare the logits with those of transformers, in fp32; off skips the proof (default: %(default)s)",
    )


@contextlib.contextmanager
def interruptible(output: Path) -> Iterator[None]:
    """Unwind on Ctrl-C and stop signals, so that nothing unfinished is left, and say so in one line.

    Raises:
        KeyboardInterrupt, SystemExit: the signal came; the exit code of the latter is 128 + its number.
    """
    name = ""
    try:
        with unwinding_on_signals():
            yield
    except KeyboardInterrupt:
        name = "SIGINT"
        raise
    except SystemExit as error:
        if isinstance(error.code, int) and error.code > SIGNAL_BASE:
            name = signal.Signals(error.code - SIGNAL_BASE).name
        raise
    finally:
        if name:
            print(f"Interrupted by {name}: nothing was written to {output}.", file=sys.stderr, flush=True)
