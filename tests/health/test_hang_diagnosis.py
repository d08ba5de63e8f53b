"""The diagnosis of a hang from the ranks' answers."""

from typing import Any

import pytest

from trainer.health.hang_diagnosis import RankReport, diagnose
from trainer.health.rank_processes import RankProcess
from trainer.health.rank_state import RankState


def report(rank: int, *, waits_in: str | None = "all_reduce over all ranks", **changes: Any) -> RankReport:
    state = RankState(
        frames=[f"innermost_{rank} (trainer/x.py:{rank})", "caller (trainer/y.py:7)"],
        place=changes.pop("called_by", "train_step (trainer/engine/e.py:5)"),
        waits_in=waits_in,
        collective="gloo:all_reduce number 4 of group default_pg, 2 elements, not completed",
        is_collective_open=changes.pop("is_collective_open", True),
    )
    fields: dict[str, Any] = {
        "process": RankProcess(rank=rank, host=f"n{rank}", launcher=str(rank), pid=100 + rank),
        "step": 17,
        "phase": "step",
        "place": "backward (trainer/z.py:1)",
        "silent_seconds": 0.5,
        "state": state,
        "process_state": None,
    }
    return RankReport(**{**fields, **changes})


def text_of(*reports: RankReport) -> tuple[list[int], str]:
    diagnosis = diagnose(reports, stalled_for="step 17 has taken 63 s, and the limit is 60 s")
    return diagnosis.blocking, diagnosis.text


def test_a_silent_rank_is_blocking_and_its_last_heartbeat_is_quoted() -> None:
    silent = report(3, state=None, silent_seconds=12.2, process_state="T (stopped), in do_signal_stop")
    blocking, text = text_of(report(0), report(1, waits_in=None), report(2), silent)
    assert blocking == [3]
    assert diagnose([report(0), silent], stalled_for="x").silent == [3]
    assert "step 17 has taken 63 s, and the limit is 60 s. Rank 3 no longer responds." in text
    assert (
        "rank 3 (pid 103 on n3) has not responded for 12 s; its last heartbeat was at step 17, in backward"
        " (trainer/z.py:1); its process is in state T (stopped), in do_signal_stop" in text
    )
    assert "ranks 0, 2 at step 17, waiting in all_reduce over all ranks, called by train_step" in text


def test_a_rank_without_any_heartbeat_is_blocking() -> None:
    assert "it never sent a heartbeat" in text_of(report(0), report(1, state=None, step=None))[1]


def test_a_rank_outside_a_collective_is_blocking() -> None:
    blocking, text = text_of(report(0), report(1), report(2, waits_in=None, phase="checkpoint"))
    assert blocking == [2]
    assert "Rank 2 is blocking the others" in text
    assert "rank 2 (pid 102 on n2): step 17 (checkpoint)\n    at innermost_2 (trainer/x.py:2)\n    from caller" in text


def test_a_rank_in_an_earlier_step_is_blocking() -> None:
    blocking, text = text_of(report(0), report(1, step=16), report(2))
    assert blocking == [1]
    assert "Rank 1 is in an earlier step than the others" in text


@pytest.mark.parametrize(
    ("calls", "blocking", "words"),
    [
        (["a", "a", "b"], [2], "rank 2 in another call than the rest"),
        (["a", "b"], [0, 1], "in calls that do not match"),
        (["a", "a"], [0, 1], "All ranks wait in the same call"),
    ],
)
def test_a_rank_in_a_different_collective_is_blocking(calls: list[str], blocking: list[int], words: str) -> None:
    found, text = text_of(*(report(rank, waits_in=f"{call} over all ranks") for rank, call in enumerate(calls)))
    assert found == blocking
    assert words in text


def test_a_run_of_one_rank_makes_no_progress() -> None:
    blocking, text = text_of(report(0, waits_in=None))
    assert blocking == [0]
    assert "Rank 0 makes no progress" in text


def test_the_flight_recorder_identifies_the_rank_that_has_not_joined() -> None:
    blocking, text = text_of(
        *(report(rank, waits_in=None, is_collective_open=rank != 1) for rank in range(3)),
    )
    assert blocking == [1]
    assert "Rank 1 has not joined the collective that the others wait in" in text


BUSY: dict[str, Any] = {"waits_in": None}
SAVING = {**BUSY, "phase": "checkpoint"}
OF_ONE_HOST = {"process": RankProcess(rank=2, host="n1", launcher="1", pid=102)}


@pytest.mark.parametrize(
    ("changes", "suspects"),
    [
        ([{}, BUSY, {}], [1]),
        ([{}, BUSY, {**BUSY, **OF_ONE_HOST}], [1, 2]),
        ([{}, BUSY, BUSY], []),
        ([{}, {}, SAVING], []),
        ([{"waits_in": None, "called_by": "write (trainer/metrics/jsonl.py:3)"}, {}, {}], []),
        ([{}, {"step": 16}, {}], []),
        ([{}, {}, {}], []),
        ([{}, {"state": None}, BUSY], []),
    ],
)
def test_a_host_is_suspected_only_where_no_other_can_be_the_reason(
    changes: list[dict[str, Any]], suspects: list[int]
) -> None:
    diagnosis = diagnose([report(rank, **change) for rank, change in enumerate(changes)], stalled_for="x")
    assert diagnosis.suspects == suspects
