"""Train a model: the entry of every process of a run.

    torchrun --nproc-per-node N -m trainer.train OVERRIDES
    python -m launch.local OVERRIDES        # the same, processes counted for you

OVERRIDES: GROUP=OPTION picks a file of conf/GROUP, PATH=VALUE sets one field; docs/reference/training.md lists all.

Exit codes: 0 done, 1 the run ended without its last state saved, or failed, 2 bad configuration or input, 75 stopped by
a signal after saving (start it again to go on), 79 the run hung, 80 copies of weights differ, 81 another process is
gone, 82 training went wrong and going back did not help (docs/training/fault_tolerance.md).
"""

import faulthandler
import os
import sys
import traceback

from trireme.errors import EXIT_OK, EXIT_REQUEUE, exit_code_of
from trireme.logging import configure_logging
from trireme.processes import leave_exit_code, name_process
from trireme.start_notice import announce_start


def main() -> int:
    """The command."""
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" in os.environ:
        name_process(rank)
    configure_logging(rank=rank)
    faulthandler.enable()  # what the system ends with SIGSEGV, SIGBUS or SIGABRT shows where it was
    try:
        code = exit_code_of(lambda: start(sys.argv[1:]))
    except BaseException:
        # Said at once and by this rank, not by whoever notices that it is gone.
        leave_exit_code(1)
        prefix = f"[rank {rank}] " if "RANK" in os.environ else ""
        sys.stderr.write("".join(prefix + line for line in traceback.format_exc().splitlines(keepends=True)))
        sys.stderr.flush()
        os._exit(1)  # the other threads may hang in a collective that will never end
    if os.environ.get("LOCAL_RANK", "0") == "0":  # each node's launcher looks for it
        leave_exit_code(code)
    if code not in (EXIT_OK, EXIT_REQUEUE):
        os._exit(code)  # as above
    return code


def start(overrides: list[str]) -> int:
    """Say that training starts, then run.

    Returns:
        The exit code.
    Raises:
        ConfigError: the configuration or an input cannot be used.
    """
    is_main_rank = int(os.environ.get("RANK", "0")) == 0
    if {"--help", "-h"} & set(overrides):
        sys.stdout.write((__doc__ or "").lstrip() if is_main_rank else "")
        return EXIT_OK
    if is_main_rank:
        announce_start("training starts")
    from trainer.run import run  # noqa: PLC0415 - imports PyTorch, for seconds; the notice above comes first

    return run(overrides)


if __name__ == "__main__":
    sys.exit(main())
