"""A model that fails ends all texts with an error, and the server says so from then on."""

import asyncio

import pytest

from tests.inference.models import LLAMA, open_generator, request
from trainer.inference.request import FinishReason, Piece
from trainer.inference.server.errors import ApiError
from trainer.inference.server.worker import Ticket, Worker


async def read(ticket: Ticket) -> list[Piece | ApiError]:
    pieces: list[Piece | ApiError] = []
    while True:
        pieces.append(await asyncio.wait_for(ticket.pieces.get(), timeout=30))
        last = pieces[-1]
        if isinstance(last, ApiError) or last.finish_reason:
            return pieces


def test_a_failed_model_is_told_to_all() -> None:
    async def talk() -> None:
        worker = Worker(generator, max_waiting=4)
        worker.start()
        (fine,) = worker.submit([request([1, 2], 5)])
        assert len(await read(fine)) == 5
        steps = 0
        run = generator._runner.run

        def fail_later(given: list) -> list:  # type: ignore[type-arg]
            nonlocal steps
            steps += 1
            if steps == 3:
                raise RuntimeError("out of memory")
            return run(given)

        generator._runner.run = fail_later  # type: ignore[assignment,method-assign]
        tickets = worker.submit([request([1], 20), request([2], 20), request([3], 20)])
        for pieces in await asyncio.gather(*map(read, tickets)):
            assert isinstance(pieces[-1], ApiError)
            assert pieces[-1].status == 503
        for act in (worker.check, lambda: worker.submit([request([1], 1)])):
            with pytest.raises(ApiError, match="The model has failed: RuntimeError: out of memory"):
                act()
        assert worker.is_idle
        worker.stop()

    with open_generator(LLAMA, num_rows=2) as generator:
        asyncio.run(talk())


def test_places_are_counted() -> None:
    async def talk() -> None:
        worker = Worker(generator, max_waiting=1)
        worker.start()
        tickets = worker.submit([request([number], 25) for number in (1, 2, 3)])
        with pytest.raises(ApiError, match="The queue is full: 3 of 3 places are taken") as caught:
            worker.submit([request([4], 1)])
        assert caught.value.status == 429
        worker.cancel(tickets[1:2])
        (later,) = worker.submit([request([4], 3)])
        for ticket, count in ((tickets[0], 25), (tickets[2], 25), (later, 3)):
            pieces = await read(ticket)
            assert len(pieces) == count
            assert isinstance(pieces[-1], Piece)
            assert pieces[-1].finish_reason is FinishReason.LENGTH
        worker.drain()
        with pytest.raises(ApiError, match="The server is shutting down"):
            worker.check()
        worker.stop()

    with open_generator(LLAMA, num_rows=2) as generator:
        asyncio.run(talk())
