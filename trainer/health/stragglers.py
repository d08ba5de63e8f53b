"""Which rank keeps the others waiting."""

import logging
import statistics
from collections.abc import Sequence

import torch
from torch import distributed

from trainer.health.processes import RankProcess
from trireme.records import RankTimes

_LOGGER = logging.getLogger(__name__)
_LEAST_SECONDS = 2.0
"""Of measured time: over less, what else a host does is as large as what a rank is slower by."""

_SAMPLE_SECONDS = 1e-3
"""Less time per step than this is not told apart."""


def compare_ranks(seconds: Sequence[float], *, stages: Sequence[int], hosts: Sequence[str]) -> RankTimes:
    """Find the slowest rank.

    Ranks are compared within their pipeline stage, since stages may differ by design; with one rank a stage all are
    compared. Of two ranks the faster one is the median.

    Args:
        seconds: per step, by rank.
        stages: pipeline stage of each rank.
        hosts: of each rank.
    """
    is_alone = len(set(stages)) == len(stages)
    peers = [0] * len(stages) if is_alone else list(stages)
    medians = {
        stage: statistics.median_low([s for s, p in zip(seconds, peers, strict=True) if p == stage])
        for stage in set(peers)
    }
    # Time is sampled: a median below a sample says only that it is small, and a ratio to it nothing.
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
    """Compares the ranks every so many steps, and warns.

    Args:
        stage: pipeline stage of this rank.
        ratio: from which on a rank is named.
    """

    def __init__(
        self, processes: Sequence[RankProcess], *, stage: int, interval: int, ratio: float, device: torch.device
    ) -> None:
        self._processes, self._stage = processes, stage
        self._interval, self._ratio, self._device = interval, ratio, device

    def compare(self, seconds: float, *, step: int) -> RankTimes:
        """Gather every rank's own time and find the slowest; all ranks call this.

        Args:
            seconds: this rank's own time since the last comparison.
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
                "step %d: %s is slow: it computes %.3f s per step, %.2f times the median of its pipeline stage",
                step,
                self._processes[times.slowest_rank],
                times.slowest_rank_seconds,
                times.slowest_rank_ratio,
            )
        return times
