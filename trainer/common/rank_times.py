"""How evenly the ranks of a run work."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """The rank that computes longest, beside those that do the same work."""

    slowest_rank: int
    slowest_rank_host: str
    slowest_rank_seconds: float
    """Its own time per step, without waiting for other ranks."""
    slowest_rank_ratio: float
    """That time over the median of the ranks of its pipeline stage; 1 where all are equally fast."""
