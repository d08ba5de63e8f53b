"""The multi-process harness itself: results by rank, every rank's failure, no hang."""

import os
import time

import pytest
import torch
from torch import distributed

from tests.distributed.harness import RanksFailed, run_distributed


def _sum_of_ranks(offset: int) -> tuple[int, int, int]:
    value = torch.tensor([distributed.get_rank() + offset])
    distributed.all_reduce(value)
    return distributed.get_rank(), int(os.environ["WORLD_SIZE"]), int(value)


def _fail_on(failing_rank: int) -> None:
    if distributed.get_rank() == failing_rank:
        raise ValueError(f"rank {failing_rank} has had enough")
    distributed.barrier()


def _fail_everywhere() -> None:
    raise ValueError(f"complaint {distributed.get_rank()}")


def _hang_on(hanging_rank: int) -> None:
    if distributed.get_rank() == hanging_rank:
        _sleep_forever()


def _sleep_forever() -> None:
    time.sleep(3600)


def _die_on(dying_rank: int) -> None:
    if distributed.get_rank() == dying_rank:
        os._exit(17)
    distributed.barrier()


def test_returns_each_ranks_value_in_order() -> None:
    assert run_distributed(_sum_of_ranks, 3, 10) == [(0, 3, 33), (1, 3, 33), (2, 3, 33)]


def test_one_failing_rank_is_named_with_its_traceback_and_ends_the_others() -> None:
    start = time.monotonic()
    with pytest.raises(RanksFailed) as failure:
        run_distributed(_fail_on, 2, 1, timeout_seconds=100)
    assert time.monotonic() - start < 60
    assert "rank 1 raised" in str(failure.value)
    assert "ValueError: rank 1 has had enough" in str(failure.value)
    assert "in _fail_on" in str(failure.value)


def test_every_ranks_traceback_is_shown() -> None:
    with pytest.raises(RanksFailed, match="2 of 2 ranks failed") as failure:
        run_distributed(_fail_everywhere, 2)
    assert "complaint 0" in str(failure.value)
    assert "complaint 1" in str(failure.value)


def test_a_hanging_rank_is_ended_and_shows_where_it_stood() -> None:
    start = time.monotonic()
    with pytest.raises(RanksFailed, match=r"not done after 5 s") as failure:
        run_distributed(_hang_on, 2, 1, timeout_seconds=5)
    assert time.monotonic() - start < 40
    assert "rank 1 was still running" in str(failure.value)
    assert "_sleep_forever" in str(failure.value)


def test_a_dying_rank_is_reported_with_its_exit_code() -> None:
    with pytest.raises(RanksFailed, match="rank 1 died with exit code 17"):
        run_distributed(_die_on, 2, 1, timeout_seconds=100)
