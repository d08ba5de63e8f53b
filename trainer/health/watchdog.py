"""Every rank's watch over the others: one that dies ends them all, and a run that hangs is judged and ended."""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.config.run import HealthConfig
from trainer.health.awake_clock import AwakeClock
from trainer.health.hang_diagnosis import Inquiry, answer
from trainer.health.phase_limits import PhaseLimits
from trainer.health.rank_processes import RankProcess, Siblings, gather_processes, is_stopped
from trainer.health.rank_state import innermost_place, is_waiting
from trainer.health.store_messages import NOTICE, leave_store_address, open_store_messages
from trireme.bad_nodes import note_bad_nodes, note_suspects
from trireme.errors import EXIT_HANG, EXIT_PEER_FAILED, ConfigError, RunStopped, exit_code_for
from trireme.logging import EVERY_RANK, FILE_ONLY, rank_log_path
from trireme.processes import leave_exit_code

_LOGGER = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a rank that learns of another's end stays, so that it can say what is wrong with itself, if anything is."""
STORE_PATIENCE_SECONDS = 15.0
"""How long the store may fail to answer before the host that keeps it is taken for lost."""
STORE_IS_SILENT = "the store of the job does not answer: the host that keeps it has left or cannot be reached"
BLAME_SECONDS = 0.5
BLAME_SECONDS_IN_COLLECTIVES = 5.0
"""How long a rank that raises looks for another that has died of itself: longer where its own error is that the others
do not answer. Only the one that nobody preceded prints its traceback."""


class Watchdog:
    """Watches while `with` lasts; all ranks build it, once, when they have joined.

    Two threads: one sleeps until a process of this host ends, the other writes heartbeats and reads notices of other
    hosts. Neither needs the main thread, which may wait in a collective for ever.
    """

    def __init__(self, config: HealthConfig, *, rank: int, run_directory: Path) -> None:
        self.awake_clock = AwakeClock()
        self.clock = PhaseLimits(config, clock=self.awake_clock)
        self.processes: list[RankProcess] = gather_processes()
        self._config, self._rank = config, rank
        self._run_directory = run_directory
        self._logs = rank_log_path(run_directory, rank=rank).parent
        self._board = open_store_messages()
        self._siblings = Siblings(self.processes, rank=rank)
        self._is_ended = threading.Event()
        self._is_another_lost = threading.Event()
        self._is_store_silent = False
        self._wake = os.eventfd(0)
        self._answered: str | None = None
        """Number of the last inquiry that this rank answered, at `_answered_at`."""
        self._answered_at = 0.0
        self._threads = [
            threading.Thread(target=self._watch_siblings, name="siblings", daemon=True),
            threading.Thread(target=self._watch_board, name="health", daemon=True),
        ]

    def __enter__(self) -> "Watchdog":
        leave_store_address()
        self.awake_clock.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_explained = isinstance(error, ConfigError | RunStopped)
        if error is not None and not is_explained and self._is_consequence(trace):
            text = "".join(traceback.format_exception(error))
            _LOGGER.error("raised because another rank is gone:\n%s", text, extra=FILE_ONLY)
            self._leave(EXIT_PEER_FAILED)
        with contextlib.suppress(RuntimeError):  # the store may be gone with the host that kept it
            if error is None:
                self._board.write(f"done/{self._rank}", True)
            elif not self._is_another_lost.is_set():
                text = f"{self.processes[self._rank]} raised {type(error).__name__}: {error}"
                self._post_end(code=exit_code_for(error), text=text)
        self._close()

    def has_lost_rank(self) -> bool:
        """Whether a rank of this host has died, or the end of the run has been posted: to wait for it is in vain."""
        return self._is_another_lost.is_set() or bool(self._find_lost())

    def _close(self) -> None:
        self._is_ended.set()
        os.eventfd_write(self._wake, 1)
        for thread in self._threads:
            thread.join()
        self.awake_clock.close()
        os.close(self._wake)
        self._siblings.close()

    def _is_consequence(self, trace: TracebackType | None) -> bool:
        """Whether another rank ended before this one raised."""
        if len(self.processes) == 1:
            return False
        frames = [frame for frame, _ in traceback.walk_tb(trace)]
        is_of_collective = bool(frames) and is_waiting(frames[-1])
        seconds = BLAME_SECONDS_IN_COLLECTIVES if is_of_collective else BLAME_SECONDS
        if self._is_another_lost.wait(seconds) or self._find_lost():
            return True
        if is_of_collective and self._is_store_silent:
            _LOGGER.error("%s", STORE_IS_SILENT, extra=EVERY_RANK)
            return True
        return False

    def _find_lost(self, *, wake: int | None = None, except_for: set[int] | None = None) -> list[RankProcess]:
        """Ranks of this host that ended before their work did."""
        ended = self._siblings.find_ended(wake=wake, except_for=except_for or ())
        return [process for process in ended if not self._is_done(process.rank)]

    def _is_done(self, rank: int) -> bool:
        try:
            return bool(self._board.read(f"done/{rank}"))
        except RuntimeError:
            return False

    def _watch_siblings(self) -> None:
        done: set[int] = set()
        while not self._is_ended.is_set():
            lost = self._find_lost(wake=self._wake, except_for=done)
            if lost and not self._is_ended.is_set():
                self._is_another_lost.set()
                with contextlib.suppress(RuntimeError):  # the store may have ended with it
                    self._post_end(code=EXIT_PEER_FAILED, text=f"{lost[0]} is gone")
                self._leave_after_grace(EXIT_PEER_FAILED)
            done |= {process.rank for process in self._siblings.find_ended(except_for=done)}

    def _watch_board(self) -> None:
        answered_at = self.awake_clock()
        while True:
            try:
                self._look_at_board()
                answered_at, self._is_store_silent = self.awake_clock(), False
            except RuntimeError as error:
                self._is_store_silent = True
                if is_stopped(os.getppid()):  # the launcher, and the store with it; whoever did so can continue it
                    answered_at = self.awake_clock()
                elif self.awake_clock() - answered_at > STORE_PATIENCE_SECONDS:
                    self._is_another_lost.set()
                    _LOGGER.error("%s (%s)", STORE_IS_SILENT, error, extra=EVERY_RANK)
                    self._leave_after_grace(EXIT_PEER_FAILED)
            if self._is_ended.wait(self._config.heartbeat_seconds):
                return

    def _look_at_board(self) -> None:
        notice = self._board.read(NOTICE)
        if notice is not None and notice["kind"] == "end":
            self._obey(notice)
        if not self._config.watchdog:
            return
        beat = {"time": time.time(), "step": self.clock.step, "phase": self.clock.phase, "place": innermost_place()}
        self._board.write(f"beat/{self._rank}", beat)
        if notice is not None:
            self._answer(notice)
        elif stall := self.clock.stall():
            self._inquire(stall)

    def _answer(self, notice: dict[str, Any]) -> None:
        """Answer an inquiry once; take away one whose author never comes to an end."""
        if notice["number"] != self._answered:
            self._answered, self._answered_at = notice["number"], self.awake_clock()
            answer(self._board, notice, rank=self._rank, siblings=self._siblings, logs=self._logs)
        elif self.awake_clock() - self._answered_at > STORE_PATIENCE_SECONDS:
            self._board.erase(NOTICE)

    def _inquire(self, stall: str) -> None:
        """Ask all ranks where they stand, unless another rank does; end the run if it still has not got on."""
        notice = {"kind": "ask", "by": self._rank, "number": f"{self._rank}-{time.time()}"}
        if not self._board.write_first(NOTICE, notice):
            return
        self._answer(notice)
        inquiry = Inquiry(self._board, notice=notice, processes=self.processes)
        inquiry.wait(seconds=2 * self._config.heartbeat_seconds + 2)
        if self._is_ended.is_set() or self.clock.stall() is None:
            _LOGGER.warning("%s; it has gone on since", stall, extra=EVERY_RANK)
            self._board.erase(NOTICE)
            return
        verdict = inquiry.diagnose(stall)
        _LOGGER.error("%s\n  stacks of all threads, and the last collectives: %s", verdict.text, self._logs / "rank_*")
        reason = verdict.text.splitlines()[0]
        self.note_bad_ranks(verdict.silent, reason=reason)
        self.note_bad_ranks(verdict.suspects, reason=reason, step=self.clock.step)
        ending = {"kind": "end", "code": EXIT_HANG, "text": reason, "silent": verdict.silent}
        self._board.write(NOTICE, ending)
        self._obey(ending)

    def note_bad_ranks(self, ranks: Collection[int], *, reason: str, step: int | None = None) -> None:
        """Have the run do without these ranks' hosts from its next start on, if it has others; one rank calls this.

        Args:
            step: of what another host may do in the same step: then it is no host's fault.
        """
        bad = {self.processes[rank].host for rank in ranks}
        if not bad or not self._config.note_bad_nodes or bad == {process.host for process in self.processes}:
            return
        try:
            if step is None:
                note_bad_nodes(self._run_directory, bad, reason=reason)
            elif not note_suspects(self._run_directory, bad, reason=reason, step=step):
                hosts = ", ".join(sorted(bad))
                _LOGGER.warning("step %d has hung before: %s may stay in the run", step, hosts, extra=EVERY_RANK)
        except OSError as error:
            _LOGGER.warning("could not note %s as bad: %s", ", ".join(sorted(bad)), error, extra=EVERY_RANK)

    def _post_end(self, *, code: int, text: str) -> None:
        own = self.processes[self._rank]
        self._board.post_end(code=code, text=text, launcher=own.launcher)

    def _obey(self, notice: dict[str, Any]) -> None:
        """Leave as the notice says, which somebody has explained."""
        self._is_another_lost.set()
        if notice["code"] == EXIT_HANG:
            leave_exit_code(EXIT_HANG)  # before the launcher sees one end that had to be killed
        for rank in notice.get("silent", ()):
            self._siblings.kill(rank)
        _LOGGER.warning("leaving: %s", notice["text"], extra=FILE_ONLY)
        own = self.processes[self._rank]
        if notice.get("launcher", own.launcher) != own.launcher and os.environ.get("LOCAL_RANK") == "0":
            _LOGGER.error("%s leaves: %s", own.host, notice["text"], extra=EVERY_RANK)
        if notice["code"] == EXIT_HANG:
            self._leave(EXIT_HANG)
        self._leave_after_grace(notice["code"])

    def _leave_after_grace(self, code: int) -> None:
        if not self._is_ended.wait(GRACE_SECONDS):
            self._leave(code)

    def _leave(self, code: int) -> None:
        leave_exit_code(code, only_first=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
