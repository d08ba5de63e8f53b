"""Detect stragglers: ranks that keep the others waiting, from the compute time of each rank."""

import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import distributed, nn

from trainer.health.rank_processes import RankProcess
from trainer.health.rank_state import is_waiting
from trireme.records import RankTimes

SAMPLE_SECONDS = 0.1


class ComputeTime(Protocol):
    """Measure this rank's own compute time."""

    def take(self) -> float:
        """Return the seconds since the last call, after a completed step."""
        ...

    def close(self) -> None:
        """Stop measuring."""
        ...


class SampledComputeTime:
    """Measure the time in which the main thread does not wait for other ranks, by sampling.

    Args:
        is_counting: returns whether the run is in a phase that is measured.
        clock: returns seconds without those in which the process was suspended, which would count as its own time.
    """

    def __init__(self, is_counting: Callable[[], bool], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_counting, self._clock = is_counting, clock
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._is_ended = False
        self._main = threading.main_thread().ident or 0
        self._thread = threading.Thread(target=self._sample, name="compute-time", daemon=True)
        self._thread.start()

    def take(self) -> float:
        """Return the seconds since the last call."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """Stop the thread."""
        self._is_ended = True
        self._thread.join()

    def _sample(self) -> None:
        last = self._clock()
        while not self._is_ended:
            time.sleep(SAMPLE_SECONDS)  # a third of the time of a lock with a time limit
            # A process without a core to run on is late here; that time counts as its own.
            now = self._clock()
            frame = sys._current_frames().get(self._main)
            if frame is not None and self._is_counting() and not is_waiting(frame):
                with self._lock:
                    self._seconds += now - last
            last = now


class ForwardEventTime:
    """Measure the device's time in forward passes of training, including the collectives in them."""

    def __init__(self, chunks: Sequence[nn.Module]) -> None:
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._handles = []
        for chunk in chunks:
            self._handles.append(chunk.register_forward_pre_hook(self._begin))
            self._handles.append(chunk.register_forward_hook(self._end))

    def take(self) -> float:
        """Return the seconds since the last call; the loss is on the host, so the events have completed."""
        events, self._events = self._events, []
        return sum(first.elapsed_time(second) for first, second in events) / 1000

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            self._events.append((first, second))

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._events[-1][1].record()


_LOGGER = logging.getLogger(__name__)
_LEAST_SECONDS = 2.0
"""Shortest measured time of a warning: within less, other activity of a host has the size of a straggler's delay."""

_SAMPLE_SECONDS = 1e-3
"""Resolution of the time per step."""


def compare_ranks(seconds: Sequence[float], *, stages: Sequence[int], hosts: Sequence[str]) -> RankTimes:
    """Find the slowest rank.

    Ranks are compared within their pipeline stage, since stages may differ by design; with one rank a stage all are
    compared. Of two ranks the faster one is the median.

    Args:
        seconds: per step, by rank.
        stages: pipeline stage of each rank.
        hosts: host of each rank.
    """
    is_alone = len(set(stages)) == len(stages)
    peers = [0] * len(stages) if is_alone else list(stages)
    medians = {
        stage: statistics.median_low([s for s, p in zip(seconds, peers, strict=True) if p == stage])
        for stage in set(peers)
    }
    # Time is sampled: a median below the resolution says only that it is small, and a ratio to it is meaningless.
    ratios = [
        max(second, _SAMPLE_SECONDS) / max(medians[stage], _SAMPLE_SECONDS)
        for second, stage in zip(seconds, peers, strict=True)
    ]
    slowest = max(range(len(ratios)), key=ratios.__getitem__)
    return RankTimes(
        slowest_rank=slowest,
        slowest_rank_host=hosts[slowest],
        slowest_rank_seconds=seconds[slowest],
        slowest_rank_ratio=ratios[slowest],
    )


class Stragglers:
    """Compare the ranks at an interval of steps, and warn of a straggler.

    Args:
        stage: pipeline stage of this rank.
        interval: steps between comparisons.
        ratio: lowest ratio to the median that causes a warning.
    """

    def __init__(
        self, processes: Sequence[RankProcess], *, stage: int, interval: int, ratio: float, device: torch.device
    ) -> None:
        self._processes, self._stage = processes, stage
        self._interval, self._ratio, self._device = interval, ratio, device

    def compare(self, seconds: float, *, step: int) -> RankTimes:
        """Gather every rank's compute time and find the slowest rank; all ranks call this.

        Args:
            seconds: this rank's compute time since the last comparison.
        """
        own = torch.tensor([seconds / self._interval, self._stage], dtype=torch.float64, device=self._device)
        gathered = [torch.empty_like(own) for _ in self._processes]
        distributed.all_gather(gathered, own)
        table = torch.stack(gathered).tolist()
        times = compare_ranks(
            [row[0] for row in table],
            stages=[int(row[1]) for row in table],
            hosts=[process.host for process in self._processes],
        )
        is_measured = times.slowest_rank_seconds * self._interval >= _LEAST_SECONDS
        if is_measured and times.slowest_rank_ratio >= self._ratio and distributed.get_rank() == 0:
            _LOGGER.warning(
                "Step %d: %s is a straggler: it computes %.3f s per step, %.2f times the median of its pipeline stage.",
                step,
                self._processes[times.slowest_rank],
                times.slowest_rank_seconds,
                times.slowest_rank_ratio,
            )
        return times
