"""Where a thread stands, and whether it waits for other ranks."""

import queue
import sys
import threading
import time
from types import FrameType

from torch import distributed

from tests.distributed.harness import run_distributed
from trainer.health.standing import describe_wait, find_standing, is_waiting, last_collective, shorten


def _frames_of(thread: threading.Thread) -> list[FrameType]:
    frame, frames = sys._current_frames()[thread.ident or 0], []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def test_a_queue_is_no_other_rank() -> None:
    waiting: queue.Queue[int] = queue.Queue()
    thread = threading.Thread(target=waiting.get)
    thread.start()
    time.sleep(0.1)
    assert not is_waiting(_frames_of(thread)[0])
    assert describe_wait(_frames_of(thread)) is None
    waiting.put(1)
    thread.join()


def _wait_for_a_late_rank() -> tuple[str | None, str | None]:
    group = distributed.new_group([0, 1])
    if distributed.get_rank() == 1:
        time.sleep(1.5)
        distributed.barrier(group=group)
        return None, None
    thread = threading.Thread(target=lambda: distributed.barrier(group=group))
    thread.start()
    time.sleep(0.5)
    told = describe_wait(_frames_of(thread)), last_collective()
    thread.join()
    return told


def test_a_collective_is_named_with_its_ranks_and_found_in_the_flight_recorder() -> None:
    (waits_in, collective), _ = run_distributed(_wait_for_a_late_rank, 2)
    assert waits_in == "barrier over ranks 0, 1"
    assert collective is not None and "barrier number 1 of group" in collective
    assert collective.endswith("is not done")


def test_paths_begin_at_the_package() -> None:
    assert shorten(distributed.__file__ or "") == "torch/distributed/__init__.py"


def _wait_in_another_thread() -> str | None:
    """As a run does that waits for the checkpoint that a thread is writing."""
    if distributed.get_rank() == 1:
        time.sleep(1.5)
        distributed.barrier()
        return None
    told: list[str | None] = []
    writer = threading.Thread(target=distributed.barrier)
    asker = threading.Thread(target=lambda: (time.sleep(0.5), told.append(find_standing().waits_in)))
    writer.start()
    asker.start()
    writer.join()
    asker.join()
    return told[0]


def test_a_thread_that_the_main_one_waits_for_tells() -> None:
    assert run_distributed(_wait_in_another_thread, 2) == ["barrier over ranks 0, 1", None]
