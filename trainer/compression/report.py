"""Share the option that measures decoding, and keep the result of a compression; imports nothing heavy."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import checkpoints_directory, delete, list_checkpoints
from trainer.huggingface.output_directory import (
    created_directory,
    delete_leftovers,
    scratch_directory,
    write_errors_explained,
)
from trireme.errors import Violation
from trireme.files import write_whole
from trireme.strict_json import to_json

RESULT_NAME = "compression.json"
"""File of a run directory with what `trireme quantize` or `trireme prune` printed."""
_SCRATCH_PREFIX = ".trireme-compression-"
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
def withdrawn_on_failure(output: Path) -> Iterator[None]:
    """Delete the checkpoints of a run directory where the block, which writes and measures one, raises or is killed.

    After a kill, `withdraw_unmeasured` deletes them.

    Args:
        output: a run directory without checkpoints, which may not exist yet.
    Raises:
        ConfigError: the directory cannot be created.
        RunStopped: the disk is full.
    """
    with (
        write_errors_explained(output),
        created_directory(output, output=output),
        scratch_directory(output, prefix=_SCRATCH_PREFIX),
    ):
        try:
            yield
        except BaseException:
            _withdraw(output)
            raise


def withdraw_unmeasured(output: Path) -> None:
    """Delete what a killed command has left in a run directory: a checkpoint that has no result."""
    if output.is_dir():
        delete_leftovers(output, prefix=_SCRATCH_PREFIX, before=lambda _: _withdraw(output))


def _withdraw(output: Path) -> None:
    for checkpoint in list_checkpoints(output):
        delete(checkpoint)
    with contextlib.suppress(OSError):  # not empty, or not there
        checkpoints_directory(output).rmdir()
