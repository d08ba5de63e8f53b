"""An inquiry into a run that no longer gets on: one rank asks, every rank answers from a thread, the one judges."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.health.board import Board
from trainer.health.processes import RankProcess, Siblings
from trainer.health.standing import Standing, dump_to_files, find_standing
from trainer.health.verdict import RankReport, Verdict, judge


def answer(board: Board, notice: Mapping[str, Any], *, rank: int, siblings: Siblings, logs: Path) -> None:
    """Say where this rank stands and in what state its siblings' processes are; leave all stacks in a file."""
    standing = find_standing()
    board.write(
        f"answer/{notice['number']}/{rank}",
        {"standing": asdict(standing), "siblings": {str(r): state for r, state in siblings.states().items()}},
    )
    dump_to_files(logs, rank=rank)


class Inquiry:
    """The answers to one notice, and what follows from them."""

    def __init__(self, board: Board, *, notice: Mapping[str, Any], processes: Sequence[RankProcess]) -> None:
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

    def judge(self, stall: str) -> Verdict:
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
                    standing=Standing(**found["standing"]) if found else None,
                    state=states.get(process.rank),
                )
            )
        return judge(reports, stalled_for=stall)
