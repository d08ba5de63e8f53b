"""Find the state of a rank: the Python frames of its main thread, what it waits in, and its last collective."""

import faulthandler
import functools
import json
import linecache
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch import distributed

_COLLECTIVES = re.compile(r"torch/distributed/\w+\.py$")
"""Files whose functions wait for other ranks; those of `torch/distributed/checkpoint/` wait for disks."""
_WRAPPER = "wrapper"  # torch's, around each collective; logs errors
NUM_FRAMES = 6


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Hold the state of one rank at one moment."""

    frames: list[str]
    """Innermost Python frames, the innermost first: `forward (trainer/model/moe.py:12)`."""
    place: str
    """The innermost frame of this project's code."""
    waits_in: str | None
    """The communication that it waits in, with its group if that is known; None if it waits for no other rank."""
    collective: str | None
    """Description of the last collective in the flight recorder."""
    is_collective_open: bool
    """Whether that collective is not completed: other ranks have not joined it, or the device has not reached it."""


def find_rank_state() -> RankState:
    """Return the state of this process; called by another thread than the main one."""
    frames = _relevant_frames()
    last = _last_entry()
    return RankState(
        frames=[_describe(frame) for frame in frames[:NUM_FRAMES]],
        place=_find_own(frames),
        waits_in=describe_wait(frames),
        collective=_describe_entry(last) if last is not None else None,
        is_collective_open=last is not None and not _is_done(last),
    )


def main_frames() -> list[FrameType]:
    """Return the frames of the main thread, the innermost first."""
    return _frames_of(threading.main_thread())


def _frames_of(thread: threading.Thread) -> list[FrameType]:
    frame = sys._current_frames().get(thread.ident or 0)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _relevant_frames() -> list[FrameType]:
    """Return the frames of the main thread, or of the thread that it waits for and that waits for other ranks."""
    frames = main_frames()
    if frames and Path(frames[0].f_code.co_filename) == Path(threading.__file__):
        for thread in threading.enumerate():
            others = _frames_of(thread)
            if thread is not threading.main_thread() and others and is_waiting(others[0]):
                return others
    return frames


def innermost_place() -> str:
    """Describe the main thread's innermost frame of this project's code."""
    return _find_own(main_frames())


def _find_own(frames: list[FrameType]) -> str:
    own = next((frame for frame in frames if "site-packages" not in frame.f_code.co_filename), None)
    return _describe(own or frames[0]) if frames else "unknown code"


def is_waiting(innermost: FrameType) -> bool:
    """Return whether a thread waits for other ranks: in torch.distributed, or for a request that it started there."""
    line: int | None = innermost.f_lineno  # None between two lines
    return _is_wait(innermost.f_code.co_filename, line or 0)


@functools.lru_cache(maxsize=4096)  # called ten times a second, often for the same lines
def _is_wait(file: str, line: int) -> bool:
    if _COLLECTIVES.search(file):
        return True
    # A request that torch.distributed returned; Python's own locks and queues wait in the standard library.
    return "site-packages" in file and ".wait(" in linecache.getline(file, line)


def describe_wait(frames: list[FrameType]) -> str | None:
    """Describe what a thread waits in, for example `all_reduce over ranks 0, 2`; None if it does not wait."""
    if not frames or not is_waiting(frames[0]):
        return None
    inside = []
    for frame in frames:
        if not _COLLECTIVES.search(frame.f_code.co_filename):
            break
        if frame.f_code.co_name != _WRAPPER:
            inside.append(frame)
    if not inside:
        return f"{frames[0].f_code.co_name}, for an asynchronous request"
    ranks = next((found for frame in inside if (found := _ranks_of(frame.f_locals.get("group")))), None)
    over = f" over ranks {', '.join(map(str, ranks))}" if ranks else " over all ranks"
    return inside[-1].f_code.co_name + over


def _ranks_of(group: Any) -> list[int] | None:
    if not isinstance(group, distributed.ProcessGroup):
        return None
    try:
        return distributed.get_process_group_ranks(group)
    except (KeyError, ValueError, RuntimeError):
        return None


def _last_entry() -> dict[str, Any] | None:
    """Return the latest entry of the flight recorder; None if it has none."""
    try:
        entries: list[dict[str, Any]] = json.loads(dump_flight_recorder()).get("entries", [])
    except (ValueError, RuntimeError):
        return None
    return max(entries, key=lambda found: found.get("record_id", 0), default=None)


def _is_done(entry: dict[str, Any]) -> bool:
    return bool(entry.get("retired")) or entry.get("state") == "completed"


def _describe_entry(entry: dict[str, Any]) -> str:
    group = next((part for part in reversed(entry.get("process_group", [])) if part not in ("", "undefined")), "?")
    number = entry.get("p2p_seq_id") if entry.get("is_p2p") else entry.get("collective_seq_id")
    state = "completed" if _is_done(entry) else "not completed"
    sizes = "x".join(map(str, (entry.get("input_sizes") or [[]])[0])) or "1"
    return f"{entry.get('profiling_name', 'unknown')} number {number} of group {group}, {sizes} elements, {state}"


def dump_flight_recorder() -> bytes:
    """Return the flight recorder's last collectives as JSON: NCCL's if it is used, else gloo's."""
    bindings: Any = torch._C._distributed_c10d
    if distributed.is_initialized() and distributed.get_backend() == "nccl":
        return bytes(bindings._dump_nccl_trace_json(True, False))
    return bytes(bindings._dump_fr_trace_json(True, False))


def dump_to_files(logs: Path, *, rank: int) -> list[Path]:
    """Write the stacks of all threads, and the flight recorder, next to the rank's log.

    Returns:
        The files that could be written.
    """
    stacks, recorder = logs / f"rank_{rank:03d}.stacks.txt", logs / f"rank_{rank:03d}.collectives.json"
    written = []
    try:
        with stacks.open("w") as file:
            dump_stacks(file)
        written.append(stacks)
        recorder.write_bytes(dump_flight_recorder())
        written.append(recorder)
    except (OSError, RuntimeError):
        pass
    return written


def dump_stacks(file: TextIO) -> None:
    """Write the Python stacks of all threads."""
    faulthandler.dump_traceback(file=file, all_threads=True)


def _describe(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({shorten(frame.f_code.co_filename)}:{frame.f_lineno})"


def shorten(path: str) -> str:
    """Return a source file's path from its package on."""
    for place in sorted(filter(None, sys.path), key=len, reverse=True):
        if path.startswith(place + "/"):
            return path[len(place) + 1 :]
    return path
