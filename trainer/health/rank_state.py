"""Where a rank stands: the Python frames of its main thread, whether it waits for other ranks, its last collective."""

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
_WRAPPER = "wrapper"  # torch's around each collective, which logs errors
NUM_FRAMES = 6


@dataclass(frozen=True, kw_only=True)
class RankState:
    """One moment of one rank."""

    frames: list[str]
    """Innermost Python frames of what it does, the innermost first: `forward (trainer/model/moe.py:12)`."""
    place: str
    """The innermost of them that belongs to this project."""
    waits_in: str | None
    """The communication that it waits in, with its group where that is known; None where it waits for nobody."""
    collective: str | None
    """The last collective that the flight recorder has, in words."""
    is_collective_open: bool
    """Whether that one is not done: other ranks are to join it, or the device has not come to it."""


def find_rank_state() -> RankState:
    """Where this process stands; called by another thread than the main one."""
    frames = _frames_that_matter()
    last = _last_entry()
    return RankState(
        frames=[_describe(frame) for frame in frames[:NUM_FRAMES]],
        place=_find_own(frames),
        waits_in=describe_wait(frames),
        collective=_describe_entry(last) if last is not None else None,
        is_collective_open=last is not None and not _is_done(last),
    )


def main_frames() -> list[FrameType]:
    """Frames of the main thread, the innermost first."""
    return _frames_of(threading.main_thread())


def _frames_of(thread: threading.Thread) -> list[FrameType]:
    frame = sys._current_frames().get(thread.ident or 0)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _frames_that_matter() -> list[FrameType]:
    """Those of the main thread; where it waits for another thread that waits for other ranks, those of that one."""
    frames = main_frames()
    if frames and Path(frames[0].f_code.co_filename) == Path(threading.__file__):
        for thread in threading.enumerate():
            others = _frames_of(thread)
            if thread is not threading.main_thread() and others and is_waiting(others[0]):
                return others
    return frames


def innermost_place() -> str:
    """The innermost frame of the main thread that belongs to this project, in words."""
    return _find_own(main_frames())


def _find_own(frames: list[FrameType]) -> str:
    own = next((frame for frame in frames if "site-packages" not in frame.f_code.co_filename), None)
    return _describe(own or frames[0]) if frames else "nowhere"


def is_waiting(innermost: FrameType) -> bool:
    """Whether a thread waits for other ranks: within torch.distributed, or for the end of what it started there."""
    line: int | None = innermost.f_lineno  # None between two lines
    return _is_wait(innermost.f_code.co_filename, line or 0)


@functools.lru_cache(maxsize=4096)  # asked ten times a second, and steps stand in the same lines again and again
def _is_wait(file: str, line: int) -> bool:
    if _COLLECTIVES.search(file):
        return True
    # Of a request that torch.distributed returned; Python's own locks and queues wait in the standard library.
    return "site-packages" in file and ".wait(" in linecache.getline(file, line)


def describe_wait(frames: list[FrameType]) -> str | None:
    """Name what a thread waits in, for example `all_reduce over ranks 0, 2`; None where it does not wait."""
    if not frames or not is_waiting(frames[0]):
        return None
    inside = []
    for frame in frames:
        if not _COLLECTIVES.search(frame.f_code.co_filename):
            break
        if frame.f_code.co_name != _WRAPPER:
            inside.append(frame)
    if not inside:
        return f"{frames[0].f_code.co_name}, for what it sent or asked for"
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
    """The newest entry of the flight recorder; None where it has none."""
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
    over = " is done" if _is_done(entry) else " is not done"
    sizes = "x".join(map(str, (entry.get("input_sizes") or [[]])[0])) or "1"
    return f"{entry.get('profiling_name', 'unknown')} number {number} of group {group}, {sizes} elements,{over}"


def dump_flight_recorder() -> bytes:
    """The flight recorder's ring of the last collectives, as JSON: NCCL's where there is one, else gloo's."""
    bindings: Any = torch._C._distributed_c10d
    if distributed.is_initialized() and distributed.get_backend() == "nccl":
        return bytes(bindings._dump_nccl_trace_json(True, False))
    return bytes(bindings._dump_fr_trace_json(True, False))


def dump_to_files(logs: Path, *, rank: int) -> list[Path]:
    """Write the stack of every thread, and the flight recorder, beside the rank's log.

    Returns:
        The files; fewer where the disk takes no more.
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
    """The Python stack of every thread."""
    faulthandler.dump_traceback(file=file, all_threads=True)


def _describe(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({shorten(frame.f_code.co_filename)}:{frame.f_lineno})"


def shorten(path: str) -> str:
    """A source file's path from the package on."""
    for place in sorted(filter(None, sys.path), key=len, reverse=True):
        if path.startswith(place + "/"):
            return path[len(place) + 1 :]
    return path
