"""Look at everything on disk that a run would read or write, and start nothing.

    python -m trainer.check_inputs [--world-size N] [--json] OVERRIDES

The same checks, by the same code, that `trainer.train` makes before it starts a process group: shards (with
data.verify=checksum every byte of them), tokenizer, checkpoint, run directory. For launchers, which may not import
torch: `--json` prints {"violations": [{"path", "value", "rule", "fix"}]}.

Exit codes: 0 all is well, 2 something is not.
"""

import argparse
import dataclasses
import json
import os
import sys

from trainer.common.errors import EXIT_BAD_INPUT, EXIT_OK, ConfigError, exit_code_of


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-size", type=int, default=1, help="processes of the run")
    parser.add_argument("--json", action="store_true", help="print what is wrong as JSON on stdout")
    parser.add_argument("overrides", nargs="*", help="of trainer.train")
    arguments = parser.parse_args()
    # As torchrun would say it to the main rank.
    os.environ.update(WORLD_SIZE=str(arguments.world_size), RANK="0")
    if not arguments.json:
        return exit_code_of(lambda: check(arguments.overrides))
    try:
        check(arguments.overrides)
    except ConfigError as error:
        violations = [{**dataclasses.asdict(one), "value": str(one.value)} for one in error.violations]
        print(json.dumps({"violations": violations}))
        return EXIT_BAD_INPUT
    print(json.dumps({"violations": []}))
    return EXIT_OK


def check(overrides: list[str]) -> None:
    """Check as `trainer.train` does.

    Raises:
        ConfigError: everything that is wrong, at once.
    """
    from trainer.inputs import check_training_files, load_inputs  # noqa: PLC0415 - imports torch; --help need not wait

    load_inputs(overrides, check_files=check_training_files)


if __name__ == "__main__":
    sys.exit(main())
