"""Diagnose a hang: ask every rank where it is, and distinguish blocking ranks from waiting ones."""

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
"""Files whose code only the main rank runs within a step."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """Hold what is known of one rank of a hung run."""

    process: RankProcess
    step: int | None
    """Its step at its last heartbeat; None if it never sent one."""
    phase: str
    place: str
    """Innermost frame of this project's code at its last heartbeat."""
    silent_seconds: float
    """Time since its last heartbeat."""
    state: RankState | None
    """Its answer; None if it did not answer."""
    process_state: str | None
    """State of its process in its host's system; None if no rank of that host answered."""

    @property
    def is_silent(self) -> bool:
        """Whether it did not answer."""
        return self.state is None


@dataclass(frozen=True, kw_only=True)
class HangDiagnosis:
    """Hold the diagnosis of a hang and its text for the user."""

    blocking: list[int]
    silent: list[int]
    suspects: list[int]
    """Blocking ranks that answer, and whose host alone can be the cause: a disk, a device, a driver."""
    text: str


def diagnose(reports: Sequence[RankReport], *, stalled_for: str) -> HangDiagnosis:
    """Find the blocking ranks.

    They are the ranks that do not answer; else those that wait for no other rank; else those in the earliest step;
    else, if all wait, those that wait in another call than most.

    Args:
        stalled_for: what took too long, for example `step 17 has taken 63 s, and the limit is 60 s`.
    """
    blocking, why, is_blocked_by_answering = _find_blocking(reports)
    lines = [f"The run hangs: {stalled_for}. {why}"]
    lines += [line for report in reports if report.process.rank in blocking for line in _describe_blocking(report)]
    waiting = [report for report in reports if report.process.rank not in blocking]
    ranks_by_place: dict[str, list[int]] = {}
    for report in waiting:
        ranks_by_place.setdefault(_describe_waiting(report), []).append(report.process.rank)
    lines += [f"  {_ranks(ranks, is_start=False)} {what}" for what, ranks in ranks_by_place.items()]
    return HangDiagnosis(
        blocking=blocking,
        silent=[report.process.rank for report in reports if report.is_silent],
        suspects=blocking if is_blocked_by_answering and _is_fault_of_one_host(reports, blocking) else [],
        text="\n".join(lines),
    )


def _is_fault_of_one_host(reports: Sequence[RankReport], blocking: Sequence[int]) -> bool:
    """Return whether the ranks of one host alone are late with work that every rank does in a step.

    Work of the main rank alone (metrics, events) may wait for a disk that all hosts share.
    """
    late = [report for report in reports if report.process.rank in blocking]
    hosts = {report.process.host for report in late}
    return (
        len(hosts) == 1
        and hosts != {report.process.host for report in reports}
        and all(report.phase == "step" for report in late)
        and not any(place in frame for report in late for frame in _frames(report) for place in _MAIN_RANK_ONLY)
    )


def _frames(report: RankReport) -> list[str]:
    return [*report.state.frames, report.state.place] if report.state is not None else []


def _find_blocking(reports: Sequence[RankReport]) -> tuple[list[int], str, bool]:
    """Return the blocking ranks, the reason as a sentence, and whether they answer and the others wait for them."""
    silent = [report.process.rank for report in reports if report.is_silent]
    if silent:
        return silent, f"{_ranks(silent)} no longer respond{'s' if len(silent) == 1 else ''}.", False
    busy = [report.process.rank for report in reports if report.state and report.state.waits_in is None]
    if busy and len(busy) < len(reports):
        return busy, f"{_ranks(busy)} {_are(busy)} blocking the others.", True
    if busy:
        # On GPUs all wait for the device; those whose device waits for no other rank have not joined the others.
        free = [report.process.rank for report in reports if report.state and not report.state.is_collective_open]
        if free and len(free) < len(reports):
            return free, f"{_ranks(free)} {_have(free)} not joined the collective that the others wait in.", True
    steps = {report.process.rank: report.step or 0 for report in reports}
    first = min(steps.values())
    behind = [rank for rank, step in steps.items() if step == first]
    if len(behind) < len(reports):
        return behind, f"{_ranks(behind)} {_are(behind)} in an earlier step than the others.", False
    if busy:  # all of them
        why = "No rank waits for another." if len(busy) > 1 else f"{_ranks(busy)} makes no progress."
        return busy, why, False
    calls = {report.process.rank: _call(report) for report in reports}
    counts = Counter(calls.values())
    most_common = counts.most_common(1)[0][0]
    odd = [rank for rank, call in calls.items() if call != most_common]
    if odd and len(odd) < len(reports) / 2:
        why = f"All ranks wait for each other, {_ranks(odd, is_start=False)} in another call than the rest."
        return odd, why, False
    everyone = sorted(calls)
    if len(counts) > 1:
        return everyone, "All ranks wait for each other, in calls that do not match.", False
    why = "All ranks wait in the same call: the network between them, or an external process, does not respond."
    return everyone, why, False


def _call(report: RankReport) -> str:
    """Return what a waiting rank calls, and from where."""
    assert report.state is not None
    return f"{report.state.waits_in}, called by {report.state.place}"


def _describe_blocking(report: RankReport) -> list[str]:
    head = f"  {report.process}"
    if report.is_silent:
        last = (
            f"its last heartbeat was at {_when(report)}, in {report.place}"
            if report.step is not None
            else "it never sent a heartbeat"
        )
        process_state = f"; its process is in state {report.process_state}" if report.process_state else ""
        return [f"{head} has not responded for {report.silent_seconds:.0f} s; {last}{process_state}"]
    state = report.state
    assert state is not None
    lines = [f"{head}: {_when(report)}"]
    if state.waits_in:
        lines.append(f"    waits in {_call(report)}")
    lines += [f"    {'at' if number == 0 else 'from'} {frame}" for number, frame in enumerate(state.frames)]
    if state.collective:
        lines.append(f"    last collective: {state.collective}")
    return lines


def _describe_waiting(report: RankReport) -> str:
    assert report.state is not None
    where = _when(report)
    collective = f"; last collective: {report.state.collective}" if report.state.collective else ""
    if report.state.waits_in is None:
        return f"at {where}, in {report.state.frames[0] if report.state.frames else 'no Python code'}{collective}"
    return f"at {where}, waiting in {_call(report)}{collective}"


def _when(report: RankReport) -> str:
    return f"step {report.step}" + ("" if report.phase == "step" else f" ({report.phase})")


def _ranks(ranks: Sequence[int], *, is_start: bool = True) -> str:
    """Name ranks, at the start of a sentence or inside one."""
    return f"{'R' if is_start else 'r'}ank{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


def _have(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _are(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def answer(messages: StoreMessages, message: Mapping[str, Any], *, rank: int, siblings: Siblings, logs: Path) -> None:
    """Answer where this rank is and in what state its siblings' processes are; write all stacks to a file."""
    state = find_rank_state()
    messages.write(
        f"answer/{message['number']}/{rank}",
        {"state": asdict(state), "siblings": {str(r): state for r, state in siblings.states().items()}},
    )
    dump_to_files(logs, rank=rank)


class RankAnswers:
    """Collect the ranks' answers to one message and diagnose the hang from them."""

    def __init__(
        self, messages: StoreMessages, *, message: Mapping[str, Any], processes: Sequence[RankProcess]
    ) -> None:
        self._messages, self._number, self._processes = messages, message["number"], processes
        self._answers: dict[int, Any] = {}

    def wait(self, *, seconds: float) -> None:
        """Wait until every rank has answered, but no longer than that."""
        deadline = time.monotonic() + seconds
        while True:
            for process in self._processes:
                if process.rank not in self._answers:
                    found = self._messages.read(f"answer/{self._number}/{process.rank}")
                    if found is not None:
                        self._answers[process.rank] = found
            if len(self._answers) == len(self._processes) or time.monotonic() > deadline:
                return
            time.sleep(0.1)

    def diagnose(self, stall: str) -> HangDiagnosis:
        """Find the blocking ranks; `stall` is what took too long."""
        process_states = {int(r): s for found in self._answers.values() for r, s in found["siblings"].items()}
        reports = []
        for process in self._processes:
            beat = self._messages.read(f"beat/{process.rank}") or {}
            found = self._answers.get(process.rank)
            reports.append(
                RankReport(
                    process=process,
                    step=beat.get("step"),
                    phase=beat.get("phase", "start-up"),
                    place=beat.get("place", "unknown code"),
                    silent_seconds=time.time() - beat["time"] if beat else 0.0,
                    state=RankState(**found["state"]) if found else None,
                    process_state=process_states.get(process.rank),
                )
            )
        return diagnose(reports, stalled_for=stall)
