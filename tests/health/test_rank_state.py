"""What a thread does, and whether it waits for other ranks."""

import queue
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store

from tests.distributed.harness import run_distributed
from trainer.health.rank_state import describe_wait, find_rank_state, is_waiting, shorten

T = TypeVar("T")


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
    while _frames_of(thread)[0].f_code.co_name != "wait":
        time.sleep(0.01)
    assert not is_waiting(_frames_of(thread)[0])
    assert describe_wait(_frames_of(thread)) is None
    waiting.put(1)
    thread.join()


def _look(find: Callable[[], T | None]) -> T:
    """What is found once a thread has got where it is to be looked at; the late rank waits for that."""
    while (found := find()) is None:
        time.sleep(0.01)
    _get_default_store().set("looked", "yes")
    return found


def _come_late(group: distributed.ProcessGroup | None = None) -> None:
    _get_default_store().wait(["looked"])
    distributed.barrier(group=group)


def _wait_for_a_late_rank() -> tuple[str, str | None] | None:
    group = distributed.new_group([0, 1])
    if distributed.get_rank() == 1:
        _come_late(group)
        return None
    thread = threading.Thread(target=lambda: distributed.barrier(group=group))
    thread.start()

    def find() -> tuple[str, str | None] | None:
        waits_in, state = describe_wait(_frames_of(thread)), find_rank_state()
        return (waits_in, state.collective) if waits_in is not None and state.is_collective_open else None

    told = _look(find)
    thread.join()
    return told


def test_a_collective_is_named_with_its_ranks_and_found_in_the_flight_recorder() -> None:
    (told, _) = run_distributed(_wait_for_a_late_rank, 2)
    assert told is not None
    waits_in, collective = told
    assert waits_in == "barrier over ranks 0, 1"
    assert collective is not None and "barrier number 1 of group" in collective
    assert collective.endswith("not completed")


def test_paths_begin_at_the_package() -> None:
    assert shorten(distributed.__file__ or "") == "torch/distributed/__init__.py"


def _wait_in_another_thread() -> str | None:
    """As a run does that waits for the checkpoint that a thread is writing."""
    if distributed.get_rank() == 1:
        _come_late()
        return None
    told: list[str] = []
    writer = threading.Thread(target=distributed.barrier)
    asker = threading.Thread(target=lambda: told.append(_look(lambda: find_rank_state().waits_in)))
    writer.start()
    asker.start()
    writer.join()
    asker.join()
    return told[0]


def test_a_collective_in_another_thread_is_reported() -> None:
    assert run_distributed(_wait_in_another_thread, 2) == ["barrier over ranks 0, 1", None]
