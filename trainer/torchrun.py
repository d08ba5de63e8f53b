"""torchrun, whose exit code is that of the process that failed first: 2 bad input, 75 asks to be requeued.

usage: python -m trainer.torchrun TORCHRUN-ARGUMENTS

torchrun itself exits with 1 and its own traceback whatever its processes said. After a signal the exit code is the one
that the main process left in the file that EXIT_CODE_FILE names.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainer.common.errors import EXIT_BAD_INPUT, EXIT_REQUEUE
from trainer.common.exit_code import EXIT_CODE_FILE, read_exit_code
from trainer.common.logging import quiet_torchrun

DEFAULTS = {
    # Of torchrun itself: 30 seconds between a signal and SIGKILL, too short for a long step and a large checkpoint.
    "PET_SHUTDOWN_TIMEOUT": "300",
    # And without SIGUSR1, the warning that Slurm gives before the time is up.
    "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
}
"""Environment variables from which torchrun takes its options, unless they are set."""

SIGNAL_BASE = 128
"""Shells report a process that a signal ended as 128 + the signal's number."""


def main() -> int:
    """Run torchrun's own main."""
    quiet_torchrun()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="trireme-exit-") as folder:
        path = Path(folder, "code")
        os.environ[EXIT_CODE_FILE] = str(path)
        try:
            run.main()
        except ChildFailedError as error:
            return _exit_code(error)
        except SignalException as error:
            code_left = read_exit_code(path)
            return SIGNAL_BASE + int(error.sigval) if code_left is None else code_left
    return 0


def _exit_code(error: ChildFailedError) -> int:
    """The code of the process whose failure made the others fail.

    torchrun reports those that it ended with SIGTERM afterwards, too. A process that the system ended leaves no word,
    and others raise at once because it is gone; torchrun often sees both together.
    """
    ended_by_torchrun = -signal.SIGTERM
    failures = {rank: f for rank, f in error.failures.items() if f.exitcode != ended_by_torchrun} or error.failures
    for failure in failures.values():
        if failure.exitcode in (EXIT_BAD_INPUT, EXIT_REQUEUE):
            return int(failure.exitcode)
    killed = {rank: failure for rank, failure in failures.items() if failure.exitcode < 0}
    for rank, failure in killed.items():
        print(f"rank {rank} (pid {failure.pid}) was ended by signal {-failure.exitcode}", file=sys.stderr, flush=True)
    if killed:
        return SIGNAL_BASE - int(next(iter(killed.values())).exitcode)
    return int(min(failures.values(), key=lambda failure: failure.timestamp).exitcode)


if __name__ == "__main__":
    sys.exit(main())
