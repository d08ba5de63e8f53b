"""Train a model: the entry of every process of a run.

    torchrun --nproc-per-node N -m trainer.train OVERRIDES
    trireme local OVERRIDES        # the same; starts as many processes as the layout needs

OVERRIDES: GROUP=OPTION selects a file of conf/GROUP, PATH=VALUE sets one field; docs/reference/training.md lists them.

Exit codes: 0 done; 1 the run failed, or its last step could not be saved; 2 invalid configuration or input; 75 stopped
by a signal after saving (rerun the same command to resume); 79 the run hung; 80 replicas of weights differ; 81 another
process has exited; 82 training diverged and rollbacks did not help. See docs/training/fault_tolerance.md.
"""

import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from trireme.command import write_output
from trireme.errors import EXIT_OK, EXIT_REQUEUE, exit_code_of
from trireme.logging import configure_logging
from trireme.processes import global_rank, leave_exit_code, local_rank, name_process
from trireme.start_notice import announce_start


def main() -> int:
    """Run the command."""
    rank = global_rank()
    if "RANK" in os.environ:
        name_process(rank)
    configure_logging(rank=rank)
    faulthandler.enable()  # prints the stack of a process that ends with SIGSEGV, SIGBUS or SIGABRT
    try:
        code = exit_code_of(lambda: start(sys.argv[1:]))
    except BaseException:
        # Printed immediately and by this rank, not by a rank that notices its exit.
        leave_exit_code(1)
        prefix = f"[rank {rank}] " if "RANK" in os.environ else ""
        sys.stderr.write("".join(prefix + line for line in traceback.format_exc().splitlines(keepends=True)))
        sys.stderr.flush()
        os._exit(1)  # other threads may hang in a collective that never ends
    if local_rank() == 0:  # each node's launcher reads it
        leave_exit_code(code)
    if code not in (EXIT_OK, EXIT_REQUEUE):
        os._exit(code)  # as above
    return code


def main_with_word(*, usage: str, expand: Callable[[Sequence[str]], list[str]]) -> int:
    """Run a command that is training with a setting under a short name.

    Args:
        usage: printed with --help.
        expand: writes the short name as an override.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        if global_rank() == 0:
            write_output(usage.lstrip())
        return EXIT_OK
    sys.argv[1:] = expand(sys.argv[1:])
    return main()


def start(overrides: list[str]) -> int:
    """Print that training starts, then run it.

    Returns:
        The exit code.
    Raises:
        ConfigError: the configuration or an input is invalid.
    """
    is_main_rank = global_rank() == 0
    if {"--help", "-h"} & set(overrides):
        sys.stdout.write((__doc__ or "").lstrip() if is_main_rank else "")
        return EXIT_OK
    if is_main_rank:
        announce_start("training")
    from trainer.run import run  # noqa: PLC0415 - imports PyTorch, which takes seconds; the notice above comes first

    return run(overrides)


if __name__ == "__main__":
    sys.exit(main())
