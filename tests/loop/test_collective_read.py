"""Reading on all ranks or on none: what one rank finds, or is asked, all of them hear of."""

import os
import signal
import time

import torch
from torch import distributed

from tests.distributed.harness import run_distributed
from trainer.loop.collective_read import CollectiveRead, ReadFailed, StopRequested
from trainer.loop.signals import StopRequest
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped, Violation

CPU = torch.device("cpu")
BAD_TOKEN = Violation(path="/data/x", value="token id 99", message="is not in the vocabulary", fix="use another")


def _read(error: Exception | None) -> str:
    if error is not None:
        raise error
    return f"batch of rank {distributed.get_rank()}"


def _outcomes() -> list[object]:
    rank = distributed.get_rank()
    found: list[object] = []
    with StopRequest() as stop:
        stop.defer()
        read = CollectiveRead(stop, device=CPU)
        cut = RunStopped("the file is cut", exit_code=EXIT_BAD_INPUT)
        for error in (
            None,
            ConfigError([BAD_TOKEN]) if rank == 1 else None,
            cut,
            LookupError("a defect") if rank == 0 else cut,
        ):
            try:
                found.append(read(lambda error=error: _read(error)))
            except ReadFailed as failure:
                found.append((str(failure), failure.exit_code))
        if rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            while stop._signal is None:  # a thread takes it
                time.sleep(0.005)
        try:
            read(lambda: _read(None))
        except StopRequested:
            found.append("stop")
    return found


def test_a_read_succeeds_on_all_ranks_or_on_none() -> None:
    first, second = run_distributed(_outcomes, 2)
    assert (first.pop(0), second.pop(0)) == ("batch of rank 0", "batch of rank 1")
    assert first == second
    bad, cut, defect, stop = first
    assert bad == (str(BAD_TOKEN), 2)
    assert cut == ("the file is cut", 2), "what two ranks find is told once"
    assert "LookupError: a defect" in defect[0] and "the file is cut" in defect[0] and defect[1] == 1
    assert stop == "stop"
