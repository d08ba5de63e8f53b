"""Run torchrun with the exit code of the process that failed first (docs/training/fault_tolerance.md lists them).

usage: python -m trainer.torchrun TORCHRUN-ARGUMENTS

torchrun itself exits with 1 and its own traceback after any failure. After a signal, the exit code is the one that the
main process has written to the file that EXIT_CODE_FILE names.

`launch.local` hands over the configuration that it has composed and checked. It is written to the same temporary
folder, and the processes get `config_file=PATH`: none of them composes it again.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.forked_ranks import WaitingRanks, fork_ranks, is_wanted, preload, quiet_interrupt, torchrun_starts
from trireme.errors import EXIT_BAD_INPUT, EXIT_HANG, EXIT_PEER_FAILED, EXIT_REPLICAS_DIFFER, EXIT_REQUEUE
from trireme.logging import quiet_torchrun
from trireme.processes import EXIT_CODE_FILE, STORE_FILE, is_loopback, loopback_variables, read_exit_code, take_config
from trireme.start_notice import announce_start
from trireme.stop_signals import SIGNAL_BASE, heeded_signals
from trireme.waiting import log_waiting_for

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

DEFAULTS = {
    # torchrun's default is 30 seconds between a signal and SIGKILL, too short for a long step and a large checkpoint.
    "PET_SHUTDOWN_TIMEOUT": "300",
    # When a process exits, every other one warns of its connections, with C++ frames.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Defaults of environment variables that torch and torchrun read."""

READING_SECONDS = 2.5
"""How long this process waits for other hosts to read a message before it exits: two of the default heartbeats."""


def main() -> int:
    """Run torchrun's own main."""
    # torchrun would handle SIGHUP even if nohup ignores it, and exit on other signals without ending its processes.
    heeded = ",".join(number.name for number in heeded_signals())
    for name, value in {**DEFAULTS, "PET_SIGNALS_TO_HANDLE": heeded}.items():
        os.environ.setdefault(name, value)
    if "trainer.train" in sys.argv:
        announce_start("training")
    config_text = take_config()  # before ranks are forked, which would keep the file open
    # Late: torch reads the variables at import.
    with quiet_interrupt():
        from torch.distributed import run  # noqa: PLC0415 - see above
        from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415 - see above
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415 - see above

        request = run.parse_args(sys.argv[1:])  # prints torchrun's own errors
        waiting = _fork_ranks(request)
    quiet_torchrun()  # its modules set levels at import
    if _is_local(request):
        for name, value in loopback_variables().items():
            os.environ.setdefault(name, value)
        # torchrun looks it up several times for each process, for records that are not used.
        socket.getfqdn = lambda name="": name or socket.gethostname()
    with tempfile.TemporaryDirectory(prefix="trireme-") as folder:
        path, store_path = Path(folder, "code"), Path(folder, "store")
        os.environ[EXIT_CODE_FILE] = str(path)
        os.environ[STORE_FILE] = str(store_path)
        if config_text is not None:
            config_path = Path(folder, "config.yaml")
            config_path.write_text(config_text, encoding="utf-8")
            sys.argv.append(f"config_file={config_path}")
        try:
            with _telling_of_rendezvous(request) as has_joined, torchrun_starts(waiting, on_start=has_joined):
                run.main()
        except ChildFailedError as error:
            if read_exit_code(path) == EXIT_HANG:
                return EXIT_HANG  # a watchdog has logged the diagnosis, and killed the rank that hung
            code, text = _explain(error)
            if text:
                _say(text)
            _tell_other_hosts(store_path, code=code, text=text or f"a process there exited with code {code}")
            return code
        except SignalException as error:
            code_left = read_exit_code(path)
            return SIGNAL_BASE + int(error.sigval) if code_left is None else code_left
    return 0


def _fork_ranks(request: argparse.Namespace) -> WaitingRanks:
    """Fork this host's ranks if they run a module and there is no accelerator; else torchrun starts them."""
    if not is_wanted() or not request.module or request.no_python or not preload():
        return WaitingRanks()
    from torch.distributed import run  # noqa: PLC0415 - as in main

    return fork_ranks(run.determine_local_world_size(request.nproc_per_node))


def _is_local(request: argparse.Namespace) -> bool:
    """Return whether all processes are on this host: no other host can reach the rendezvous."""
    if request.standalone:
        return True
    if request.rdzv_endpoint or request.rdzv_backend != "static":
        return is_loopback(request.rdzv_endpoint)
    return is_loopback(request.master_addr)


@contextlib.contextmanager
def _telling_of_rendezvous(request: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Print after some time that torchrun waits for other hosts; the yielded function ends that, at the first start."""
    place = request.rdzv_endpoint or f"{request.master_addr}:{request.master_port}"
    what = f"{request.nnodes} hosts to join torchrun's rendezvous at {place}"
    if request.nnodes in ("1", "1:1"):
        what = f"torchrun's rendezvous at {place}"
    with contextlib.ExitStack() as telling:
        telling.enter_context(log_waiting_for(what, say=_say))
        yield telling.close


def _say(text: str) -> None:
    """Print without the log, which is torchrun's; the terminal may have been closed."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _explain(error: "ChildFailedError") -> tuple[int, str]:
    """Return the exit code of the process that failed first, and a message if the process itself could not print one.

    torchrun also reports the processes that it terminated afterwards. A process that the system killed prints nothing;
    others exit or raise because of it, and torchrun often sees them together.
    """
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    for _, failure in failures:
        # Reported by the process itself; a watchdog also kills the one that hangs.
        if failure.exitcode in (EXIT_BAD_INPUT, EXIT_HANG, EXIT_REPLICAS_DIFFER):
            return int(failure.exitcode), ""
    killed = [(rank, f) for rank, f in failures if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
    if killed:
        lines = [f"Rank {rank} (pid {f.pid}) was killed by {_name_signal(-f.exitcode)}." for rank, f in killed]
        return SIGNAL_BASE - int(killed[0][1].exitcode), "\n".join(lines)
    if any(failure.exitcode == EXIT_REQUEUE for _, failure in failures):
        return EXIT_REQUEUE, ""
    own = [int(f.exitcode) for _, f in failures if f.exitcode not in (EXIT_PEER_FAILED, -signal.SIGTERM)]
    return (own or [int(f.exitcode) for _, f in failures])[0], ""


def _name_signal(number: int) -> str:
    hint = "; unless someone sent it, the host ran out of memory" if number == signal.SIGKILL else ""
    return f"signal {number} ({signal.Signals(number).name}){hint}"


def _tell_other_hosts(store_path: Path, *, code: int, text: str) -> None:
    """Make the ranks of other hosts exit, if there are any and no rank of this host has done so."""
    from trainer.health.store_messages import messages_of_launcher  # noqa: PLC0415 - as in main

    messages = messages_of_launcher(store_path)
    if messages is not None:
        # The store may belong to this process, and ends with it: the others need time to read.
        with contextlib.suppress(RuntimeError):  # the store's host may have left the job
            messages.post_end(
                code=EXIT_PEER_FAILED if code > SIGNAL_BASE else code,
                text=text,
                launcher=f"launcher on {socket.gethostname()}",
            )
            time.sleep(READING_SECONDS)


if __name__ == "__main__":
    exit_code = main()
    for heeded in heeded_signals():  # nothing is left to stop; at exit, the interpreter would restore their defaults
        signal.signal(heeded, signal.SIG_IGN)
    sys.exit(exit_code)
