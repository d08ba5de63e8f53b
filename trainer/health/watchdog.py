"""Watch over the run from every rank: end it if a rank dies, diagnose and end it if it hangs."""

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
from trainer.health.hang_diagnosis import RankAnswers, answer
from trainer.health.phase_limits import PhaseLimits
from trainer.health.rank_processes import RankProcess, Siblings, gather_processes, is_stopped
from trainer.health.rank_state import innermost_place, is_waiting
from trainer.health.store_messages import MESSAGE, leave_store_address, open_store_messages
from trireme.bad_nodes import note_bad_nodes, note_suspects
from trireme.errors import EXIT_HANG, EXIT_PEER_FAILED, ConfigError, RunStopped, exit_code_for
from trireme.logging import EVERY_RANK, FILE_ONLY, rank_log_path
from trireme.processes import leave_exit_code

_LOGGER = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a rank that learns of another's exit stays, so that it can report an error of its own."""
STORE_PATIENCE_SECONDS = 15.0
"""How long the store may fail to respond before its host is treated as lost."""
STORE_IS_SILENT = "The job's TCP store does not respond: its host has left the job or cannot be reached"
BLAME_SECONDS = 0.5
BLAME_SECONDS_IN_COLLECTIVES = 5.0
"""How long a rank that raises checks whether another rank has failed before: longer if its error is in a collective.
Only the rank that failed first prints its traceback."""


class Watchdog:
    """Watch over the run inside `with`; all ranks build it once, after they have joined.

    It has two threads: one sleeps until a process of this host exits, the other writes heartbeats and reads messages of
    other hosts. Neither needs the main thread, which may wait in a collective forever.
    """

    def __init__(self, config: HealthConfig, *, rank: int, run_directory: Path) -> None:
        self.awake_clock = AwakeClock()
        self.limits = PhaseLimits(config, clock=self.awake_clock)
        self.processes: list[RankProcess] = gather_processes()
        self._config, self._rank = config, rank
        self._run_directory = run_directory
        self._logs = rank_log_path(run_directory, rank=rank).parent
        self._messages = open_store_messages()
        self._siblings = Siblings(self.processes, rank=rank)
        self._is_ended = threading.Event()
        self._is_another_lost = threading.Event()
        self._is_store_silent = False
        self._wake = os.eventfd(0)
        self._answered: str | None = None
        """Number of the last message that this rank answered, at `_answered_at`."""
        self._answered_at = 0.0
        self._threads = [
            threading.Thread(target=self._watch_siblings, name="siblings", daemon=True),
            threading.Thread(target=self._watch_messages, name="health", daemon=True),
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
            _LOGGER.error("Raised because another rank has exited:\n%s", text, extra=FILE_ONLY)
            self._exit(EXIT_PEER_FAILED)
        with contextlib.suppress(RuntimeError):  # the store may have ended with its host
            if error is None:
                self._messages.write(f"done/{self._rank}", True)
            elif not self._is_another_lost.is_set():
                text = f"{self.processes[self._rank]} raised {type(error).__name__}: {error}"
                self._post_end(code=exit_code_for(error), text=text)
        self._close()

    def has_lost_rank(self) -> bool:
        """Return whether a rank of this host has died, or a message ends the run: waiting for it is pointless."""
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
        """Return whether another rank exited before this one raised."""
        if len(self.processes) == 1:
            return False
        frames = [frame for frame, _ in traceback.walk_tb(trace)]
        is_of_collective = bool(frames) and is_waiting(frames[-1])
        seconds = BLAME_SECONDS_IN_COLLECTIVES if is_of_collective else BLAME_SECONDS
        if self._is_another_lost.wait(seconds) or self._find_lost():
            return True
        if is_of_collective and self._is_store_silent:
            _LOGGER.error("%s.", STORE_IS_SILENT, extra=EVERY_RANK)
            return True
        return False

    def _find_lost(self, *, wake: int | None = None, except_for: set[int] | None = None) -> list[RankProcess]:
        """Return the ranks of this host that exited before their work was done."""
        ended = self._siblings.find_ended(wake=wake, except_for=except_for or ())
        return [process for process in ended if not self._is_done(process.rank)]

    def _is_done(self, rank: int) -> bool:
        try:
            return bool(self._messages.read(f"done/{rank}"))
        except RuntimeError:
            return False

    def _watch_siblings(self) -> None:
        done: set[int] = set()
        while not self._is_ended.is_set():
            lost = self._find_lost(wake=self._wake, except_for=done)
            if lost and not self._is_ended.is_set():
                self._is_another_lost.set()
                with contextlib.suppress(RuntimeError):  # the store may have ended with it
                    self._post_end(code=EXIT_PEER_FAILED, text=f"{lost[0]} has exited")
                self._exit_after_grace(EXIT_PEER_FAILED)
            done |= {process.rank for process in self._siblings.find_ended(except_for=done)}

    def _watch_messages(self) -> None:
        answered_at = self.awake_clock()
        while True:
            try:
                self._check_messages()
                answered_at, self._is_store_silent = self.awake_clock(), False
            except RuntimeError as error:
                self._is_store_silent = True
                if is_stopped(os.getppid()):  # the launcher, and the store with it; the user can continue it
                    answered_at = self.awake_clock()
                elif self.awake_clock() - answered_at > STORE_PATIENCE_SECONDS:
                    self._is_another_lost.set()
                    _LOGGER.error("%s (%s)", STORE_IS_SILENT, error, extra=EVERY_RANK)
                    self._exit_after_grace(EXIT_PEER_FAILED)
            if self._is_ended.wait(self._config.heartbeat_seconds):
                return

    def _check_messages(self) -> None:
        message = self._messages.read(MESSAGE)
        if message is not None and message["kind"] == "end":
            self._exit_as_requested(message)
        if not self._config.watchdog:
            return
        beat = {"time": time.time(), "step": self.limits.step, "phase": self.limits.phase, "place": innermost_place()}
        self._messages.write(f"beat/{self._rank}", beat)
        if message is not None:
            self._answer(message)
        elif stall := self.limits.stall():
            self._diagnose_hang(stall)

    def _answer(self, message: dict[str, Any]) -> None:
        """Answer a message once; delete it if its author never finishes."""
        if message["number"] != self._answered:
            self._answered, self._answered_at = message["number"], self.awake_clock()
            answer(self._messages, message, rank=self._rank, siblings=self._siblings, logs=self._logs)
        elif self.awake_clock() - self._answered_at > STORE_PATIENCE_SECONDS:
            self._messages.erase(MESSAGE)

    def _diagnose_hang(self, stall: str) -> None:
        """Ask all ranks for their state, unless another rank does; end the run if it has made no progress since."""
        message = {"kind": "ask", "by": self._rank, "number": f"{self._rank}-{time.time()}"}
        if not self._messages.write_first(MESSAGE, message):
            return
        self._answer(message)
        answers = RankAnswers(self._messages, message=message, processes=self.processes)
        answers.wait(seconds=2 * self._config.heartbeat_seconds + 2)
        if self._is_ended.is_set() or self.limits.stall() is None:
            _LOGGER.warning("%s; it has made progress since.", _capitalize(stall), extra=EVERY_RANK)
            self._messages.erase(MESSAGE)
            return
        diagnosis = answers.diagnose(stall)
        _LOGGER.error("%s\n  stacks of all threads and last collectives: %s", diagnosis.text, self._logs / "rank_*")
        reason = diagnosis.text.splitlines()[0]
        self.note_bad_ranks(diagnosis.silent, reason=reason)
        self.note_bad_ranks(diagnosis.suspects, reason=reason, step=self.limits.step)
        ending = {"kind": "end", "code": EXIT_HANG, "text": reason, "silent": diagnosis.silent}
        self._messages.write(MESSAGE, ending)
        self._exit_as_requested(ending)

    def note_bad_ranks(self, ranks: Collection[int], *, reason: str, step: int | None = None) -> None:
        """Record these ranks' hosts in bad_nodes.jsonl, if the run has other hosts; one rank calls this.

        Args:
            step: that hung. If another host is recorded for the same step, the cause is the step and not a host.
        """
        bad = {self.processes[rank].host for rank in ranks}
        if not bad or not self._config.note_bad_nodes or bad == {process.host for process in self.processes}:
            return
        try:
            if step is None:
                note_bad_nodes(self._run_directory, bad, reason=reason)
            elif not note_suspects(self._run_directory, bad, reason=reason, step=step):
                hosts = ", ".join(sorted(bad))
                _LOGGER.warning("Step %d hung again on another host; not excluding %s", step, hosts, extra=EVERY_RANK)
        except OSError as error:
            _LOGGER.warning(
                "Failed to record %s in bad_nodes.jsonl: %s", ", ".join(sorted(bad)), error, extra=EVERY_RANK
            )

    def _post_end(self, *, code: int, text: str) -> None:
        own = self.processes[self._rank]
        self._messages.post_end(code=code, text=text, launcher=own.launcher)

    def _exit_as_requested(self, message: dict[str, Any]) -> None:
        """Exit as the message requests; another rank has logged the reason."""
        self._is_another_lost.set()
        if message["code"] == EXIT_HANG:
            leave_exit_code(EXIT_HANG)  # before the launcher sees the exit of one that had to be killed
        for rank in message.get("silent", ()):
            self._siblings.kill(rank)
        _LOGGER.warning("Exiting: %s", message["text"], extra=FILE_ONLY)
        own = self.processes[self._rank]
        if message.get("launcher", own.launcher) != own.launcher and os.environ.get("LOCAL_RANK") == "0":
            _LOGGER.error("%s exits: %s", own.host, message["text"], extra=EVERY_RANK)
        if message["code"] == EXIT_HANG:
            self._exit(EXIT_HANG)
        self._exit_after_grace(message["code"])

    def _exit_after_grace(self, code: int) -> None:
        if not self._is_ended.wait(GRACE_SECONDS):
            self._exit(code)

    def _exit(self, code: int) -> None:
        leave_exit_code(code, only_first=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
