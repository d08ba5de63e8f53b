"""A real run of several processes, and everything that can happen to it: docs/training/fault_tolerance.md.

usage: python -m tests.chaos [--short] [--seed N] [--only TEXT] [--json PATH] [--keep PATH] [--list]
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from trainer.parallel import cpu_shim

cpu_shim.install()

from tests.chaos.scenarios import long_form  # noqa: E402 - the shim comes first
from tests.chaos.short_scenarios import short_form  # noqa: E402 - as above
from tests.chaos.suite import Outcome, play_all  # noqa: E402 - as above
from tests.chaos.table import draw, summarize  # noqa: E402 - as above


def main() -> int:
    """The command; 0 when every row is what the design says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the few faults that `make test` plays")
    parser.add_argument("--seed", type=int, default=1, help="draws steps, moments and ranks")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="scenarios whose name holds this text; may be given again"
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--keep", type=Path, help="leave the runs in this directory, which must be new")
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    arguments = parser.parse_args()
    every = (short_form if arguments.short else long_form)(arguments.seed)
    texts = arguments.only or [""]
    chosen = [scenario for scenario in every if any(text in scenario.name for text in texts)]
    if not chosen:
        parser.error("no such scenario; there are " + ", ".join(scenario.name for scenario in every))
    if arguments.list:
        for scenario in chosen:
            print(scenario.name, *(f"    {row.fault}" for row in scenario.rows), sep="\n")
        return 0
    command = "python -m tests.chaos " + shlex.join(sys.argv[1:])
    print(f"{command.strip()} (seed {arguments.seed})", flush=True)
    began = time.monotonic()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=arguments.keep is None)
        for outcome in play_all(chosen, directory=directory):
            if arguments.json is not None:
                record = {
                    "command": command,
                    "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
                    "date": datetime.date.today().isoformat(),
                    "seed": arguments.seed,
                    "seconds": round(time.monotonic() - began),
                    "summary": summarize(outcome, scenarios=chosen).text,
                    **asdict(outcome),
                }
                arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    draw(outcome)
    summary = summarize(outcome, scenarios=chosen)
    print(summary.text)
    return 0 if summary.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
