"""Turn requests of the API into texts to generate, and their pieces into answers."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.inference.loading import LoadedModel
from trainer.inference.request import GenerationRequest, Piece
from trainer.inference.sampling import SamplingConfig
from trainer.inference.server.answers import AnswerWriter, FinishedText, Usage
from trainer.inference.server.errors import ApiError, invalid
from trainer.inference.server.metrics import ServerMetrics
from trainer.inference.server.protocol import ChatRequest, CompletionRequest, TextRequest
from trainer.inference.server.worker import Ticket, Worker
from trireme.tokenizer.chat_template import TemplateRefusal

STREAM_END = "data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold the texts of one request, in progress."""

    tickets: Sequence[Ticket]
    prefixes: Sequence[str]
    """Echoed prompts, by text."""
    writer: AnswerWriter
    usage: Usage
    has_usage_chunk: bool
    begin: float
    """Monotonic time of the request."""


class Service:
    """Answer requests about one model; belongs to the event loop's thread.

    Args:
        name: that the model is served under.
        defaults: fields of `SamplingConfig` for requests that do not name them.
        max_tokens: new tokens of one text at most.
    """

    def __init__(
        self,
        model: LoadedModel,
        worker: Worker,
        *,
        name: str,
        defaults: dict[str, Any],
        max_tokens: int,
        metrics: ServerMetrics,
    ) -> None:
        self.model, self.worker, self.name, self.metrics = model, worker, name, metrics
        self._defaults, self._max_tokens = defaults, max_tokens
        self.started = int(time.time())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the model and of its adapters, by number."""
        return (self.name, *self.model.adapters)

    def find_model(self, name: str | None) -> int:
        """Return the number of the adapter that a request names; 0 for the model, and where it names nothing.

        Raises:
            ApiError: this server has no such model.
        """
        if name is None:
            return 0
        if name not in self.names:
            message = f"The model {name} does not exist. This server has {', '.join(self.names)}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return self.names.index(name)

    def begin_chat(self, request: ChatRequest) -> Job:
        """Start the answer to a conversation.

        Raises:
            ApiError: the model has no chat template, or the request cannot be taken.
        """
        self._check(request)
        template = self.model.chat_template
        if template is None:
            message = (
                f"The model {self.name} has no chat template: it continues text and was not trained on conversations."
                " Use /v1/completions."
            )
            raise invalid(message, code="no_chat_template")
        try:
            prompt = template.encode([message.to_template() for message in request.messages])
        except TemplateRefusal as error:
            raise invalid(
                f"The messages cannot be used: {error}.", param="messages", code="invalid_messages"
            ) from error
        return self._begin(
            request,
            [tuple(prompt)] if prompt else [(0,)],
            echoes=[""],
            max_tokens=request.limit,
            num_logprobs=request.num_logprobs,
        )

    def begin_completion(self, request: CompletionRequest) -> Job:
        """Start the continuations of prompts.

        Raises:
            ApiError: the request cannot be taken.
        """
        self._check(request)
        prompts = [self._encode(prompt) for prompt in request.prompts]
        echoes = [
            "" if not request.echo else prompt if isinstance(prompt, str) else self.model.tokenizer.decode(prompt)
            for prompt in request.prompts
        ]
        return self._begin(
            request, prompts, echoes=echoes, max_tokens=request.max_tokens, num_logprobs=request.logprobs
        )

    async def finish(self, job: Job) -> dict[str, Any]:
        """Wait for all texts, and return the answer.

        Raises:
            ApiError: the model has failed.
        """
        texts = [FinishedText() for _ in job.tickets]
        async with contextlib.aclosing(self._pieces(job)) as pieces:
            async for index, piece in pieces:
                texts[index].add(piece)
        return job.writer.whole(texts, prefixes=job.prefixes, usage=job.usage)

    async def stream(self, job: Job) -> AsyncIterator[str]:
        """Yield the chunks of all texts as server-sent events; an error after the first chunk is one of them."""
        try:
            for index, prefix in enumerate(job.prefixes):
                if (first := job.writer.first_chunk(index, prefix=prefix)) is not None:
                    yield _event(first)
            async with contextlib.aclosing(self._pieces(job)) as pieces:
                async for index, piece in pieces:
                    if (chunk := job.writer.chunk(index, piece)) is not None:
                        yield _event(chunk)
            if job.has_usage_chunk:
                yield _event(job.writer.usage_chunk(job.usage))
        except ApiError as error:
            yield _event(error.to_json())
        yield STREAM_END

    async def _pieces(self, job: Job) -> AsyncGenerator[tuple[int, Piece]]:
        """Yield the pieces of all texts as they come; texts are cancelled if the caller stops waiting."""
        merged: asyncio.Queue[tuple[int, Piece | ApiError]] = asyncio.Queue()

        async def forward(index: int, ticket: Ticket) -> None:
            while True:
                piece = await ticket.pieces.get()
                merged.put_nowait((index, piece))
                if isinstance(piece, ApiError) or piece.finish_reason or piece.error:
                    return

        tasks = [asyncio.create_task(forward(index, ticket)) for index, ticket in enumerate(job.tickets)]
        num_open, is_first, is_whole = len(tasks), True, False
        try:
            while num_open:
                index, piece = await merged.get()
                if isinstance(piece, ApiError):
                    raise piece
                if piece.error:
                    raise ApiError(500, piece.error, kind="server_error", code="not_finite")
                if is_first and piece.tokens:
                    self.metrics.first_token_seconds.observe(time.monotonic() - job.begin)
                    is_first = False
                job.usage.completion_tokens += len(piece.tokens)
                num_open -= piece.finish_reason is not None
                yield index, piece
            is_whole = True
        finally:
            for task in tasks:
                task.cancel()
            if not is_whole and not all(ticket.is_closed for ticket in job.tickets):
                self.metrics.disconnects.inc()
            self.worker.cancel(job.tickets)
            self.metrics.request_seconds.observe(time.monotonic() - job.begin)

    def _check(self, request: TextRequest) -> None:
        self.worker.check()
        self.find_model(request.model)

    def _encode(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self.model.encode_prompt(prompt)
        if not prompt:
            raise invalid("A prompt of ids must not be empty.", param="prompt", code="invalid_value")
        wrong = [token for token in prompt if not 0 <= token < self.model.vocab_size]
        if wrong:
            message = f"The id {wrong[0]} is not in the vocabulary of {self.model.vocab_size} tokens."
            raise invalid(message, param="prompt", code="invalid_value")
        return tuple(prompt)

    def _begin(
        self,
        request: TextRequest,
        prompts: Sequence[tuple[int, ...]],
        *,
        echoes: Sequence[str],
        max_tokens: int | None,
        num_logprobs: int | None,
    ) -> Job:
        sampling = request.sampling(self._defaults)
        texts = [
            self._text(prompt, request, sampling, max_tokens=max_tokens, num_logprobs=num_logprobs, choice=choice)
            for prompt in prompts
            for choice in range(request.n)
        ]
        tickets = self.worker.submit(texts)
        num_prompt_tokens = sum(map(len, prompts))
        self.metrics.prompt_tokens.inc(num_prompt_tokens)
        return Job(
            tickets=tickets,
            prefixes=[echo for echo in echoes for _ in range(request.n)],
            writer=AnswerWriter(
                model=self.names[self.find_model(request.model)],
                tokenizer=self.model.tokenizer,
                is_chat=isinstance(request, ChatRequest),
                has_logprobs=num_logprobs is not None,
            ),
            usage=Usage(prompt_tokens=num_prompt_tokens),
            has_usage_chunk=request.stream_options is not None and request.stream_options.include_usage,
            begin=time.monotonic(),
        )

    def _text(
        self,
        prompt: tuple[int, ...],
        request: TextRequest,
        sampling: SamplingConfig,
        *,
        max_tokens: int | None,
        num_logprobs: int | None,
        choice: int,
    ) -> GenerationRequest:
        room = self.model.context_length - len(prompt)
        if room < 1 or (max_tokens is not None and max_tokens > room):
            asked = "" if max_tokens is None else f" and {max_tokens} new ones are requested"
            message = (
                f"The model's context is {self.model.context_length} tokens, but the prompt has {len(prompt)}{asked}."
                " Shorten the prompt or lower max_tokens."
            )
            raise invalid(message, param="max_tokens" if room > 0 else None, code="context_length_exceeded")
        if max_tokens is not None and max_tokens > self._max_tokens:
            message = f"This server generates at most {self._max_tokens} tokens a text; max_tokens is {max_tokens}."
            raise invalid(message, param="max_tokens", code="max_tokens_exceeded")
        return GenerationRequest(
            prompt=prompt,
            max_new_tokens=min(room, self._max_tokens) if max_tokens is None else max_tokens,
            sampling=sampling,
            seed=None if request.seed is None else (request.seed + choice) % 2**64,
            stop=tuple(request.stop),
            stop_ids=self.model.stop_ids,
            num_logprobs=num_logprobs,
            adapter=self.find_model(request.model),
        )


async def wait_for_answer(
    answer: Awaitable[dict[str, Any]], *, is_gone: Callable[[], Awaitable[None]]
) -> dict[str, Any] | None:
    """Return the answer, or None as soon as the client is gone.

    Args:
        is_gone: returns when the client has left.
    """
    task, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(is_gone())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return None
        return task.result()
    finally:
        for one in (task, leaving):
            one.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
