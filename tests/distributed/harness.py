"""Run a test function in several processes that form one world; see every rank's failure, never hang."""

import datetime
import faulthandler
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests import warm

GRACE_SECONDS = 5.0
"""How long the other ranks may go on after one has failed, so that their own error is seen too."""


class RanksFailed(Exception):
    """At least one rank raised, died or hung; the message holds every rank's traceback."""


def run_distributed(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 180.0, backend: str = "gloo"
) -> list[Any]:
    """Call `function(*args)` in `world_size` processes, forked warm, that have joined one process group.

    Args:
        function: a module-level function; it finds its rank in `torch.distributed` and in torchrun's environment names.
        args: picklable arguments, the same on every rank.
        timeout_seconds: from the start of the processes; then those still running show where they stand and are ended.
        backend: nccl gives each rank a GPU of its own.
    Returns:
        what each rank's call returned (picklable), by rank.
    Raises:
        RanksFailed: with the traceback of every rank that failed or hung.
    """
    # CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn") if backend == "nccl" else warm.context()
    with tempfile.TemporaryDirectory(prefix="trireme-ranks-") as folder:
        directory = Path(folder)
        processes: list[BaseProcess] = [
            context.Process(
                target=_run_rank,
                args=(rank, world_size, directory, timeout_seconds, backend, function, args),
                daemon=False,
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            is_timeout = _wait(processes, timeout_seconds=timeout_seconds)
        finally:
            stopped = _end(processes)
        reports = [_report(process, rank, directory, rank in stopped) for rank, process in enumerate(processes)]
        failures = [report for report in reports if report is not None]
        if failures:
            limit = f" (not done after {timeout_seconds:g} s)" if is_timeout else ""
            raise RanksFailed(f"{len(failures)} of {world_size} ranks failed{limit}\n" + "\n".join(failures))
        return [pickle.loads((directory / f"{rank}.result").read_bytes()) for rank in range(world_size)]


def _run_rank(
    rank: int,
    world_size: int,
    directory: Path,
    timeout_seconds: float,
    backend: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """The body of one process: join, call, leave its result or its traceback in a file."""
    # SIGABRT from the parent writes the stack of every thread, also of one that waits inside a collective.
    stack_file = (directory / f"{rank}.stack").open("w")
    faulthandler.enable(file=stack_file, all_threads=True)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size)
    )
    torch.set_num_threads(1)
    try:
        if backend == "nccl":
            torch.cuda.set_device(rank)
        distributed.init_process_group(
            backend,
            store=distributed.FileStore(str(directory / "store"), world_size),
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=timeout_seconds),
        )
        result = pickle.dumps(function(*args))
        if distributed.is_initialized():
            # A rank that is done must not close its connections while others still read from them.
            distributed.barrier()
            distributed.destroy_process_group()
    except BaseException:
        (directory / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)
    (directory / f"{rank}.result").write_bytes(result)


def _wait(processes: list[BaseProcess], *, timeout_seconds: float) -> bool:
    """Wait for all, or until some time after the first failure; True when the time limit ended it."""
    deadline = time.monotonic() + timeout_seconds
    is_failed = False
    while any(process.is_alive() for process in processes):
        if not is_failed and any(process.exitcode not in (None, 0) for process in processes):
            is_failed = True
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            return not is_failed
        time.sleep(0.02)
    return False


def _end(processes: list[BaseProcess]) -> set[int]:
    """End what still runs; the ranks that had to be ended."""
    stopped = {rank for rank, process in enumerate(processes) if process.is_alive()}
    for rank in stopped:
        os.kill(processes[rank].pid or 0, signal.SIGABRT)
    for process in processes:
        process.join(timeout=2.0)
        if process.is_alive():
            process.kill()
            process.join()
    return stopped


def _report(process: BaseProcess, rank: int, directory: Path, is_stopped: bool) -> str | None:
    """What went wrong on one rank, or None."""
    error, stack = directory / f"{rank}.error", directory / f"{rank}.stack"
    if error.exists():
        return f"--- rank {rank} raised\n{error.read_text()}"
    stack_text = stack.read_text() if stack.exists() else ""
    if is_stopped:
        return f"--- rank {rank} was still running and was ended\n{stack_text}"
    if process.exitcode != 0:
        return f"--- rank {rank} died with exit code {process.exitcode}\n{stack_text}"
    return None
