"""Diagnose a hang: ask every rank where it is, and tell the blocking ranks from the waiting ones."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.health.rank_processes import RankProcess, Siblings
from trainer.health.rank_state import RankState, dump_to_files, find_rank_state
from trainer.health.store_messages import StoreMessages

_MAIN_RANK_ONLY = ("trainer/metrics/", "trainer/loop/recovery_log.py", "trireme/files.py")
"""Where only the main rank has work, within a step."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """What is known of one rank when the run has stopped getting on."""

    process: RankProcess
    step: int | None
    """Its step at its last word; None where it never said one."""
    phase: str
    place: str
    """Innermost frame of the project's own at its last word."""
    silent_seconds: float
    """Time since its last word."""
    standing: RankState | None
    """What it answered when it was asked; None where it did not answer."""
    state: str | None
    """What its host's system says of its process; None where nobody on that host answered."""

    @property
    def is_silent(self) -> bool:
        """Whether it did not answer."""
        return self.standing is None


@dataclass(frozen=True, kw_only=True)
class HangDiagnosis:
    """What the user reads."""

    culprits: list[int]
    silent: list[int]
    suspects: list[int]
    """Ranks that answer, and whose host alone can be why they hold the others up: a disk, a device, a driver."""
    text: str


def diagnose(reports: Sequence[RankReport], *, stalled_for: str) -> HangDiagnosis:
    """Find the culprits: ranks that are silent; else those that wait for nobody; else those that are behind; else,
    where all wait, those that wait in another call than most.

    Args:
        stalled_for: what took too long, for example `step 17 has taken 63 s, and the limit is 60 s`.
    """
    culprits, why, is_held_up = _find_culprits(reports)
    lines = [f"the run hangs: {stalled_for}; {why}"]
    lines += [line for report in reports if report.process.rank in culprits for line in _describe_culprit(report)]
    victims = [report for report in reports if report.process.rank not in culprits]
    waits: dict[str, list[int]] = {}
    for report in victims:
        waits.setdefault(_describe_victim(report), []).append(report.process.rank)
    lines += [f"  {_ranks(ranks)} {what}" for what, ranks in waits.items()]
    return HangDiagnosis(
        culprits=culprits,
        silent=[report.process.rank for report in reports if report.is_silent],
        suspects=culprits if is_held_up and _is_fault_of_one_host(reports, culprits) else [],
        text="\n".join(lines),
    )


def _is_fault_of_one_host(reports: Sequence[RankReport], culprits: Sequence[int]) -> bool:
    """Whether what holds the others up is work that every rank does, in a step, and one host alone is late with it.

    What only the main rank does (records, events) may wait for a disk that all hosts share.
    """
    guilty = [report for report in reports if report.process.rank in culprits]
    hosts = {report.process.host for report in guilty}
    return (
        len(hosts) == 1
        and hosts != {report.process.host for report in reports}
        and all(report.phase == "step" for report in guilty)
        and not any(place in frame for report in guilty for frame in _frames(report) for place in _MAIN_RANK_ONLY)
    )


def _frames(report: RankReport) -> list[str]:
    return [*report.standing.frames, report.standing.place] if report.standing is not None else []


def _find_culprits(reports: Sequence[RankReport]) -> tuple[list[int], str, bool]:
    """The culprits, why, and whether they answer and hold the others up."""
    silent = [report.process.rank for report in reports if report.is_silent]
    if silent:
        return silent, f"{_ranks(silent)} no longer answer{'s' if len(silent) == 1 else ''}", False
    busy = [report.process.rank for report in reports if report.standing and report.standing.waits_in is None]
    if busy and len(busy) < len(reports):
        return busy, f"{_ranks(busy)} hold{'s' if len(busy) == 1 else ''} the others up", True
    if busy:
        # On GPUs all wait for the device; those whose device waits for no other rank have not joined the others.
        free = [report.process.rank for report in reports if report.standing and not report.standing.is_collective_open]
        if free and len(free) < len(reports):
            return free, f"{_ranks(free)} {_have(free)} not joined the collective that the others wait in", True
    steps = {report.process.rank: report.step or 0 for report in reports}
    first = min(steps.values())
    behind = [rank for rank, step in steps.items() if step == first]
    if len(behind) < len(reports):
        return behind, f"{_ranks(behind)} {_are(behind)} behind the others", False
    if busy:  # all of them
        return busy, "no rank waits for another" if len(busy) > 1 else f"{_ranks(busy)} does not get on", False
    calls = {report.process.rank: _call(report) for report in reports}
    counts = Counter(calls.values())
    most_common = counts.most_common(1)[0][0]
    odd = [rank for rank, call in calls.items() if call != most_common]
    if odd and len(odd) < len(reports) / 2:
        return odd, f"all ranks wait for each other, and {_ranks(odd)} in another call than the rest", False
    everyone = sorted(calls)
    if len(counts) > 1:
        return everyone, "all ranks wait for each other, in calls that do not match", False
    why = "all ranks wait in the same call: the network between them, or a process outside, does not answer"
    return everyone, why, False


def _call(report: RankReport) -> str:
    """What a waiting rank calls, and from where."""
    assert report.standing is not None
    return f"{report.standing.waits_in}, called by {report.standing.place}"


def _describe_culprit(report: RankReport) -> list[str]:
    head = f"  {report.process}"
    if report.is_silent:
        said = (
            f"its last word was {_when(report)}, in {report.place}"
            if report.step is not None
            else "it never said a word"
        )
        state = f"; its process is {report.state}" if report.state else ""
        return [f"{head} has not been heard of for {report.silent_seconds:.0f} s; {said}{state}"]
    standing = report.standing
    assert standing is not None
    lines = [f"{head}: {_when(report)}"]
    if standing.waits_in:
        lines.append(f"    waits in {_call(report)}")
    lines += [f"    {'at' if number == 0 else 'from'} {frame}" for number, frame in enumerate(standing.frames)]
    if standing.collective:
        lines.append(f"    last collective: {standing.collective}")
    return lines


def _describe_victim(report: RankReport) -> str:
    assert report.standing is not None
    where = _when(report)
    collective = f"; last collective: {report.standing.collective}" if report.standing.collective else ""
    if report.standing.waits_in is None:
        return f"at {where}, in {report.standing.frames[0] if report.standing.frames else 'no Python'}{collective}"
    return f"at {where}, waiting in {_call(report)}{collective}"


def _when(report: RankReport) -> str:
    return f"step {report.step}" + ("" if report.phase == "step" else f" ({report.phase})")


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


def _have(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _are(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def answer(board: StoreMessages, notice: Mapping[str, Any], *, rank: int, siblings: Siblings, logs: Path) -> None:
    """Say where this rank stands and in what state its siblings' processes are; leave all stacks in a file."""
    standing = find_rank_state()
    board.write(
        f"answer/{notice['number']}/{rank}",
        {"standing": asdict(standing), "siblings": {str(r): state for r, state in siblings.states().items()}},
    )
    dump_to_files(logs, rank=rank)


class Inquiry:
    """The answers to one notice, and what follows from them."""

    def __init__(self, board: StoreMessages, *, notice: Mapping[str, Any], processes: Sequence[RankProcess]) -> None:
        self._board, self._number, self._processes = board, notice["number"], processes
        self._answers: dict[int, Any] = {}

    def wait(self, *, seconds: float) -> None:
        """Wait until every rank has answered, at most that long."""
        deadline = time.monotonic() + seconds
        while True:
            for process in self._processes:
                if process.rank not in self._answers:
                    found = self._board.read(f"answer/{self._number}/{process.rank}")
                    if found is not None:
                        self._answers[process.rank] = found
            if len(self._answers) == len(self._processes) or time.monotonic() > deadline:
                return
            time.sleep(0.1)

    def diagnose(self, stall: str) -> HangDiagnosis:
        """Find the culprits."""
        states = {int(r): s for found in self._answers.values() for r, s in found["siblings"].items()}
        reports = []
        for process in self._processes:
            beat = self._board.read(f"beat/{process.rank}") or {}
            found = self._answers.get(process.rank)
            reports.append(
                RankReport(
                    process=process,
                    step=beat.get("step"),
                    phase=beat.get("phase", "start-up"),
                    place=beat.get("place", "nowhere"),
                    silent_seconds=time.time() - beat["time"] if beat else 0.0,
                    standing=RankState(**found["standing"]) if found else None,
                    state=states.get(process.rank),
                )
            )
        return diagnose(reports, stalled_for=stall)
