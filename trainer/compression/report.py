"""Share the option that measures decoding, and keep the result of a compression; imports nothing heavy."""

import argparse
import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.huggingface.output_directory import write_errors_explained
from trireme.errors import Violation
from trireme.files import write_whole
from trireme.strict_json import to_json

RESULT_NAME = "compression.json"
"""File of a run directory with what `trireme quantize` or `trireme prune` printed."""
_DECODING_ROUNDS = 3


def add_decoding_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of how often the speed of decoding is measured."""
    parser.add_argument(
        "--decoding-rounds",
        type=int,
        default=_DECODING_ROUNDS,
        metavar="N",
        help="measure the speed of decoding before and after in N short rounds; 0 leaves it out (default: %(default)s)",
    )


def check_decoding_rounds(arguments: argparse.Namespace) -> list[Violation]:
    """Report a negative number of rounds."""
    value = arguments.decoding_rounds
    if value >= 0:
        return []
    fix = "Use 0 to measure nothing."
    return [Violation(path="--decoding-rounds", value=value, message="must be at least 0", fix=fix)]


def keep_result(output: Path, record: Mapping[str, Any]) -> None:
    """Write the result into the run directory.

    Raises:
        RunStopped: it cannot be written.
    """
    with write_errors_explained(output):
        write_whole(output / RESULT_NAME, to_json(record) + "\n")


@contextlib.contextmanager
def withdrawn_on_failure(written: Path, *, output: Path) -> Iterator[None]:
    """Delete what a command has just written where the block raises, such as when it is interrupted.

    Args:
        written: a checkpoint, or a file.
        output: the command's argument: the run directory of the checkpoint, or the file.
    """
    try:
        yield
    except BaseException:
        if written.is_dir():
            shutil.rmtree(written, ignore_errors=True)
            for place in (written.parent, output):
                with contextlib.suppress(OSError):  # not empty
                    place.rmdir()
        else:
            written.unlink(missing_ok=True)
        raise
