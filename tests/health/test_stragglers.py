"""The slowest rank, among those that do the same work."""

from trainer.health.stragglers import compare_ranks


def test_ranks_are_compared_within_their_stage() -> None:
    times = compare_ranks([1.0, 1.1, 5.0, 6.0], stages=[0, 0, 1, 1], hosts=list("abcd"))
    assert (times.slowest_rank, times.slowest_rank_host) == (3, "d")
    assert times.slowest_rank_ratio == 1.2 and times.slowest_rank_seconds == 6.0


def test_where_each_stage_has_one_rank_all_are_compared() -> None:
    times = compare_ranks([1.0, 1.0, 3.0], stages=[0, 1, 2], hosts=list("abc"))
    assert (times.slowest_rank, times.slowest_rank_ratio) == (2, 3.0)


def test_of_two_ranks_the_slower_one_is_the_straggler() -> None:
    assert compare_ranks([1.0, 2.0], stages=[0, 0], hosts=list("ab")).slowest_rank_ratio == 2.0
