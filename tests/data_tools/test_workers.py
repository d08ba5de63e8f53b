"""The pool: failures of workers become errors with what they were at."""

import os
import signal
from multiprocessing.connection import Connection

import pytest

from data_tools.workers import PreparationError, WorkerPool


def serve(connection: Connection, worker: int, offset: int) -> None:
    while (task := connection.recv()) is not None:
        if task == "raise":
            raise ValueError("broken record")
        if task == "explain":
            raise PreparationError("the file is gone")
        if task == "kill":
            os.kill(os.getpid(), signal.SIGTERM)
        connection.send(task + offset)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("raise", "a worker failed at file 7:\nTraceback .*ValueError: broken record"),
        ("explain", "^the file is gone$"),
        ("kill", r"worker process \d+ was killed by signal 15 \(SIGTERM\) at file 7$"),
    ],
)
def test_a_failing_worker_is_an_error(task: str, message: str) -> None:
    with WorkerPool(serve, num_workers=1, arguments=(5,)) as pool:
        assert pool.wait(timeout_seconds=0.01) == []
        pool.send(0, 3)
        assert pool.wait() == [(0, 8)]
        pool.tasks[0] = "file 7"
        pool.send(0, task)
        with pytest.raises(PreparationError, match=f"(?s){message}"):
            pool.wait()
