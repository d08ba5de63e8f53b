"""Copies of weights: any bit that differs is found, and by majority the rank that has it."""

import torch
from torch import distributed, nn

from tests.distributed.harness import run_distributed
from trainer.health.rank_processes import RankProcess, gather_processes
from trainer.health.replicas import ReplicaCheck, ReplicaSet, describe_differences, hash_parameters
from trireme.errors import EXIT_REPLICAS_DIFFER, RunStopped

CPU = torch.device("cpu")
PROCESSES = [RankProcess(rank=rank, host=f"n{rank}", launcher="0", pid=rank) for rank in range(4)]


def test_every_bit_of_every_format_counts() -> None:
    for dtype, bits in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16), (torch.float16, torch.int16)):
        good = torch.randn(3, 5, dtype=dtype)
        for position in range(torch.iinfo(bits).bits):
            bad = good.clone()
            bad.view(bits)[1, 2] ^= 1 << position if position < torch.iinfo(bits).bits - 1 else torch.iinfo(bits).min
            rows = hash_parameters([good, bad], CPU)
            assert not torch.equal(rows[0], rows[1]), (dtype, position)
    swapped = torch.tensor([1.0, 2.0])
    assert torch.equal(hash_parameters([swapped], CPU), hash_parameters([swapped.clone()], CPU))


def test_the_majority_is_right() -> None:
    names = ["norm", "bias"]
    hashes = {0: [[1, 1], [2, 2]], 1: [[1, 1], [2, 2]], 2: [[1, 1], [9, 2]]}
    assert list(describe_differences(names, hashes, processes=PROCESSES)) == [
        ("rank 2 (pid 2 on n2) differs from the other 2 in bias", (2,))
    ]
    two = {rank: rows for rank, rows in hashes.items() if rank}
    assert list(describe_differences(names, two, processes=PROCESSES)) == [
        ("rank 1 (pid 1 on n1) and rank 2 (pid 2 on n2) disagree, without a majority, in bias", ())
    ]


def _corrupt_one_rank() -> tuple[list[str], list[set[int]]]:
    torch.manual_seed(3)
    parameters = {f"layer{number}": nn.Parameter(torch.randn(10)) for number in range(8)}
    told: list[str] = []
    odd: list[set[int]] = []
    processes = gather_processes()
    for mismatch in ("warn", "stop"):
        check = ReplicaCheck(
            [ReplicaSet(group=distributed.group.WORLD, parameters=parameters)],
            processes=processes,
            device=CPU,
            mismatch=mismatch,
            on_odd=lambda ranks: odd.append(set(ranks)),
        )
        assert check.check(step=1)
        if distributed.get_rank() == 1:
            parameters["layer5"].data.view(torch.int32)[3] ^= 1
        try:
            assert not check.check(step=2)
            told.append(mismatch)
        except RunStopped as error:
            assert error.exit_code == EXIT_REPLICAS_DIFFER
            told.append(str(error))
        if distributed.get_rank() == 1:
            parameters["layer5"].data.view(torch.int32)[3] ^= 1
    return told, odd


def test_three_ranks_and_one_flipped_bit() -> None:
    (first, odd), (second, nothing), _ = run_distributed(_corrupt_one_rank, 3)
    assert first[0] == "warn"
    assert "After step 2, replicas of the same weights differ:\n  rank 1 (pid " in first[1]
    assert "differs from the other 2 in layer5\n" in first[1]
    assert second == ["warn", ""], "one rank tells"
    assert odd == [{1}, {1}]
    assert nothing == []
