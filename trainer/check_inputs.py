"""Check everything on shared disks that a run would read or write, without starting the run.

    python -m trainer.check_inputs [--world-size N] [--data-only] [--json] OVERRIDES

Runs the checks that `trireme train` makes before it starts a process group: shards (with data.verify=checksum, every
byte of them), tokenizer, checkpoint, run directory. Requirements of the nodes alone, such as Transformer Engine and a
local disk, are checked there.

`--data-only` checks tokenizer and shards only, as far as they do not depend on settings that have errors themselves; it
needs no PyTorch, and a fifth of the time. For launchers, which cannot import torch: `--json` prints
{"violations": [{"path", "value", "message", "fix"}]}.

Exit codes: 0 no errors, 2 errors.
"""

import argparse
import dataclasses
import os
import sys

from trireme.command import run_command, write_output
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.strict_json import to_json


def main() -> int:
    """Run the command."""
    return run_command(run)


def run() -> int:
    """Parse the arguments, check, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-size", type=int, default=1, help="number of processes of the run")
    parser.add_argument("--data-only", action="store_true", help="check tokenizer and shards only")
    parser.add_argument("--json", action="store_true", help="print the errors as JSON to stdout")
    parser.add_argument("overrides", nargs="*", help="overrides of trainer.train")
    arguments = parser.parse_args()
    # As torchrun sets it for the main rank.
    os.environ.update(WORLD_SIZE=str(arguments.world_size), RANK="0")
    violations: tuple[Violation, ...] = ()
    try:
        check_data(arguments.overrides) if arguments.data_only else check(arguments.overrides)
    except ConfigError as error:
        if not arguments.json:
            raise
        violations = error.violations
    if arguments.json:
        records = [{**dataclasses.asdict(one), "value": str(one.value)} for one in violations]
        write_output(to_json({"violations": records}) + "\n")
    return EXIT_BAD_INPUT if violations else EXIT_OK


def check(overrides: list[str]) -> None:
    """Check as `trainer.train` does.

    Raises:
        ConfigError: all errors at once.
    """
    from trainer.inputs import check_training_files, load_inputs  # noqa: PLC0415 - imports torch; --help and --data-only need not wait

    load_inputs(overrides, check_files=check_training_files, computes=False)


def check_data(overrides: list[str]) -> None:
    """Check tokenizer and shards, although other settings may have errors.

    Raises:
        ConfigError: all errors of tokenizer and shards.
    """
    from trainer.data_inputs import find_data_errors  # noqa: PLC0415 - as above

    raise_if_any(find_data_errors(overrides))


if __name__ == "__main__":
    sys.exit(main())
