"""Run a generator in a thread of its own, for the requests of an event loop."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trainer.inference.generator import Generator
from trainer.inference.request import GenerationRequest, Piece
from trainer.inference.server.errors import ApiError, invalid, overloaded, unavailable

_LOGGER = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Ticket:
    """Hold one text that was given to the worker; its pieces arrive in a queue."""

    request: GenerationRequest
    pieces: asyncio.Queue[Piece | ApiError] = field(default_factory=asyncio.Queue)
    request_id: int | None = None
    """Of the generator; set and read in the worker's thread."""
    is_closed: bool = False
    """Whether its last piece has arrived, or it was cancelled."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Hold how busy the worker is."""

    num_active: int
    num_waiting: int


class Worker:
    """Generate texts in a thread; all public methods belong to the event loop's thread.

    Args:
        generator: used in the worker's thread only.
        max_waiting: texts that may wait for their turn.
        on_step: called in the worker's thread with the seconds and the new tokens of each step.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        max_waiting: int,
        on_step: Callable[[float, int], object] = lambda seconds, tokens: None,
    ) -> None:
        self._generator, self._on_step = generator, on_step
        self._capacity = generator.max_active + max_waiting
        self._open: set[Ticket] = set()
        self._commands: queue.SimpleQueue[tuple[str, Ticket | None]] = queue.SimpleQueue()
        self._running: dict[int, Ticket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._is_draining = False
        self._failure: str | None = None

    @property
    def load(self) -> Load:
        """Return how busy the worker is."""
        active = self._generator.num_active
        return Load(num_active=active, num_waiting=max(0, len(self._open) - active))

    @property
    def is_idle(self) -> bool:
        """Return whether no text is in progress or waits."""
        return not self._open

    def check(self) -> None:
        """Raise what a new request would be answered with, whatever it asks for.

        Raises:
            ApiError: the server is shutting down, or the model has failed.
        """
        if self._failure is not None:
            raise unavailable(f"The model has failed: {self._failure}", code="model_failed")
        if self._is_draining:
            raise unavailable("The server is shutting down.", code="shutting_down")

    def start(self) -> None:
        """Start the thread; its results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, requests: Sequence[GenerationRequest]) -> list[Ticket]:
        """Queue texts, all or none.

        Raises:
            ApiError: there is no room, now or ever, or see `check`.
        """
        self.check()
        if len(requests) > self._capacity:
            message = f"The request asks for {len(requests)} texts, but this server takes {self._capacity} at once."
            raise invalid(f"{message} Ask for fewer: prompts times n.", param="n", code="too_many_texts")
        if len(self._open) + len(requests) > self._capacity:
            raise overloaded(
                f"The queue is full: {len(self._open)} of {self._capacity} places are taken. Try again later."
            )
        tickets = [Ticket(request=request) for request in requests]
        self._open.update(tickets)
        for ticket in tickets:
            self._commands.put(("add", ticket))
        return tickets

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """End texts whose client is gone; those that have ended are ignored."""
        for ticket in tickets:
            if not ticket.is_closed:
                self._close(ticket)
                self._commands.put(("cancel", ticket))

    def drain(self) -> None:
        """Refuse new texts; those that were accepted go on."""
        self._is_draining = True

    def stop(self) -> None:
        """End the thread, after its current step."""
        self._commands.put(("stop", None))
        self._thread.join()

    def _close(self, ticket: Ticket) -> None:
        ticket.is_closed = True
        self._open.discard(ticket)

    def _deliver(self, ticket: Ticket, piece: Piece | ApiError) -> None:
        if ticket.is_closed:
            return
        ticket.pieces.put_nowait(piece)
        if isinstance(piece, ApiError) or piece.finish_reason or piece.error:
            self._close(ticket)

    def _fail(self, message: str) -> None:
        self._failure = message
        for ticket in list(self._open):
            self._deliver(ticket, unavailable(f"The model has failed: {message}", code="model_failed"))

    def _run(self) -> None:
        """Take commands and advance texts, until the thread is stopped or the model fails."""
        assert self._loop is not None
        try:
            while self._take_commands():
                if self._generator.has_work:
                    self._step()
        except Exception as error:
            _LOGGER.exception("The model has failed; requests are answered with status 503.")
            self._loop.call_soon_threadsafe(self._fail, f"{type(error).__name__}: {error}")

    def _step(self) -> None:
        assert self._loop is not None
        begin = time.monotonic()
        pieces = self._generator.step()
        self._on_step(time.monotonic() - begin, sum(len(piece.tokens) for piece in pieces))
        for piece in pieces:
            ticket = self._running[piece.request_id]
            if piece.finish_reason or piece.error:
                del self._running[piece.request_id]
            self._loop.call_soon_threadsafe(self._deliver, ticket, piece)

    def _take_commands(self) -> bool:
        """Carry out all commands, waiting for one while there is nothing to do; return False at the end."""
        is_waiting = not self._generator.has_work
        while True:
            try:
                name, ticket = self._commands.get(block=is_waiting)
            except queue.Empty:
                return True
            is_waiting = False
            if ticket is None:
                return False
            if name == "add":
                ticket.request_id = self._generator.add(ticket.request)
                self._running[ticket.request_id] = ticket
            elif ticket.request_id in self._running:
                self._generator.cancel(ticket.request_id)
                del self._running[ticket.request_id]
