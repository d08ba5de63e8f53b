"""Whose fault a hang is, from what ranks answered."""

from typing import Any

import pytest

from trainer.health.hang_diagnosis import RankReport, diagnose
from trainer.health.rank_processes import RankProcess
from trainer.health.rank_state import RankState


def report(rank: int, *, waits_in: str | None = "all_reduce over all ranks", **changes: Any) -> RankReport:
    standing = RankState(
        frames=[f"innermost_{rank} (trainer/x.py:{rank})", "caller (trainer/y.py:7)"],
        place=changes.pop("called_by", "train_step (trainer/engine/e.py:5)"),
        waits_in=waits_in,
        collective="gloo:all_reduce number 4 of group default_pg, 2 elements, is not done",
        is_collective_open=changes.pop("is_collective_open", True),
    )
    fields: dict[str, Any] = {
        "process": RankProcess(rank=rank, host=f"n{rank}", launcher=str(rank), pid=100 + rank),
        "step": 17,
        "phase": "step",
        "place": "backward (trainer/z.py:1)",
        "silent_seconds": 0.5,
        "standing": standing,
        "state": None,
    }
    return RankReport(**{**fields, **changes})


def text_of(*reports: RankReport) -> tuple[list[int], str]:
    verdict = diagnose(reports, stalled_for="step 17 has taken 63 s, and the limit is 60 s")
    return verdict.culprits, verdict.text


def test_a_silent_rank_is_the_culprit_and_its_last_word_is_quoted() -> None:
    silent = report(3, standing=None, silent_seconds=12.2, state="T (stopped), in do_signal_stop")
    culprits, text = text_of(report(0), report(1, waits_in=None), report(2), silent)
    assert culprits == [3]
    assert diagnose([report(0), silent], stalled_for="x").silent == [3]
    assert "step 17 has taken 63 s, and the limit is 60 s; rank 3 no longer answers" in text
    assert (
        "rank 3 (pid 103 on n3) has not been heard of for 12 s; its last word was step 17, in backward"
        " (trainer/z.py:1); its process is T (stopped), in do_signal_stop" in text
    )
    assert "ranks 0, 2 at step 17, waiting in all_reduce over all ranks, called by train_step" in text


def test_one_that_never_spoke() -> None:
    assert "it never said a word" in text_of(report(0), report(1, standing=None, step=None))[1]


def test_the_one_that_waits_for_nobody_holds_the_others_up() -> None:
    culprits, text = text_of(report(0), report(1), report(2, waits_in=None, phase="checkpoint"))
    assert culprits == [2]
    assert "rank 2 holds the others up" in text
    assert "rank 2 (pid 102 on n2): step 17 (checkpoint)\n    at innermost_2 (trainer/x.py:2)\n    from caller" in text


def test_one_that_waits_in_another_step_is_behind() -> None:
    culprits, text = text_of(report(0), report(1, step=16), report(2))
    assert culprits == [1]
    assert "rank 1 is behind the others" in text


@pytest.mark.parametrize(
    ("calls", "culprits", "words"),
    [
        (["a", "a", "b"], [2], "rank 2 in another call than the rest"),
        (["a", "b"], [0, 1], "in calls that do not match"),
        (["a", "a"], [0, 1], "all ranks wait in the same call"),
    ],
)
def test_where_all_wait_the_odd_call_tells(calls: list[str], culprits: list[int], words: str) -> None:
    found, text = text_of(*(report(rank, waits_in=f"{call} over all ranks") for rank, call in enumerate(calls)))
    assert found == culprits
    assert words in text


def test_a_run_of_one_rank_does_not_get_on() -> None:
    culprits, text = text_of(report(0, waits_in=None))
    assert culprits == [0]
    assert "rank 0 does not get on" in text


def test_where_all_wait_for_their_devices_the_flight_recorder_tells_which_has_not_joined() -> None:
    culprits, text = text_of(
        *(report(rank, waits_in=None, is_collective_open=rank != 1) for rank in range(3)),
    )
    assert culprits == [1]
    assert "rank 1 has not joined the collective that the others wait in" in text


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
        ([{}, {"standing": None}, BUSY], []),
    ],
)
def test_a_host_is_suspected_only_where_no_other_can_be_the_reason(
    changes: list[dict[str, Any]], suspects: list[int]
) -> None:
    verdict = diagnose([report(rank, **change) for rank, change in enumerate(changes)], stalled_for="x")
    assert verdict.suspects == suspects
