"""The pool: failures of workers become errors that name their work, and dead workers are replaced once."""

import os
import signal
from multiprocessing.connection import Connection

import pytest

from data_tools.errors import PreparationError
from data_tools.work.pool import WorkerDiedError, WorkerPool


def serve(connection: Connection, number: int, offset: int) -> None:
    while (task := connection.recv()) is not None:
        if task == "raise":
            raise ValueError("broken record")
        if task == "explain":
            raise PreparationError("the file is gone")
        if task == "kill":
            os.kill(os.getpid(), signal.SIGTERM)
        connection.send((number, task + offset))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("raise", "A worker failed while processing file 7:\nTraceback .*ValueError: broken record"),
        ("explain", "^the file is gone$"),
    ],
)
def test_a_failing_worker_is_an_error(task: str, message: str) -> None:
    with WorkerPool(serve, num_workers=1, arguments=(5,)) as pool:
        assert pool.wait(timeout_seconds=0.01) == []
        pool.send(0, 3)
        assert pool.wait() == [(0, (0, 8))]
        pool.tasks[0] = "file 7"
        pool.send(0, task)
        with pytest.raises(PreparationError, match=f"(?s){message}"):
            pool.wait()


def test_a_dead_worker_is_replaced_and_its_work_done_again_once() -> None:
    with WorkerPool(serve, num_workers=2, arguments=(5,)) as pool:
        for number in (2, 3):
            pool.tasks[1] = "file 7"
            pool.send(1, "kill")
            ((worker, death),) = pool.wait()
            assert worker == 1
            assert isinstance(death, WorkerDiedError)
            assert str(death).endswith("was killed (SIGTERM) while processing file 7.")
            assert not pool.is_gone(death)
            pool.replace(death, work=f"work {number}")
            assert pool.is_gone(death)
            pool.send(1, 3)
            assert pool.wait() == [(1, (number, 8))], "a process with a number of its own"
        pool.send(0, 1)
        assert pool.wait() == [(0, (0, 6))], "the others go on"
        pool.send(1, "kill")
        ((_, death),) = pool.wait()
        with pytest.raises(WorkerDiedError, match=r"^Worker .* killed \(SIGTERM\) .* This was the second attempt\.$"):
            pool.replace(death, work="work 3")
