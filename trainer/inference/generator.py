"""Generate texts with continuous batching: texts begin and end at any step, while others go on.

n: texts of a step, v: tokens of the vocabulary.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from trainer.inference.model_runner import ModelRunner, MoveRow, NewTokens, ReplicaStep
from trainer.inference.request import FinishReason, GenerationRequest, Piece, TokenLogprob
from trainer.inference.rows import CachedText, Rows
from trainer.inference.sampling import Sampler, sample_rows
from trainer.inference.text_stream import TextStream
from trireme.tokenizer.tokenizer import Tokenizer

PREFILL_TOKENS = 512
"""Prompt tokens, with padding, that a step reads at most: a long prompt must not hold up the texts in progress."""


@dataclass(eq=False, kw_only=True)
class _Text:
    """Hold a text in progress, or one that waits."""

    request_id: int
    request: GenerationRequest
    sampler: Sampler
    stream: TextStream
    history: list[int]
    """Ids of the prompt and of what was generated."""
    first: int = 0
    """Position in the history at which the model's context begins."""
    replica: int = 0
    cached: CachedText = field(default_factory=CachedText)
    is_cancelled: bool = False

    @property
    def num_generated(self) -> int:
        return len(self.history) - len(self.request.prompt)

    @property
    def num_pending(self) -> int:
        """Ids that the model has not read."""
        return len(self.history) - self.first - len(self.cached.tokens)


class Generator:
    """Generate texts in batches of varying composition.

    Call `add` at any time and `step` while there is work. Each step reads part of the new prompts, if there are
    any, and adds one token to each text in progress.

    Args:
        runner: of the model; this is rank 0.
        tokenizer: of the model.
        vocab_size: tokens that may be generated; the vocabulary's padding is not.
        context_length: positions of the model.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        tokenizer: Tokenizer,
        vocab_size: int,
        context_length: int,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self._runner, self._tokenizer = runner, tokenizer
        self._vocab_size, self._context_length = vocab_size, context_length
        self._prefill_tokens = prefill_tokens
        self._rows = [Rows(runner.num_rows) for _ in range(runner.num_replicas)]
        self._waiting: deque[_Text] = deque()
        self._active: list[_Text] = []
        self._moves: list[list[MoveRow]] = [[] for _ in self._rows]
        self._numbers = itertools.count()

    @property
    def num_waiting(self) -> int:
        """Return the number of texts that wait for a free row."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Return the number of texts in progress."""
        return len(self._active)

    @property
    def has_work(self) -> bool:
        """Return whether a step would do something."""
        return bool(self._waiting or self._active)

    @property
    def max_active(self) -> int:
        """Return the number of texts that can be in progress at once."""
        return self._runner.num_rows * self._runner.num_replicas

    def add(self, request: GenerationRequest) -> int:
        """Queue a text.

        A prompt that is longer than the context loses its beginning.

        Returns:
            the request_id of its pieces.
        """
        assert request.prompt and request.max_new_tokens > 0
        text = _Text(
            request_id=next(self._numbers),
            request=request,
            sampler=Sampler(request.sampling, prompt=request.prompt, seed=request.seed),
            stream=TextStream(self._tokenizer, prompt=request.prompt, stop=request.stop),
            history=list(request.prompt),
            first=max(0, len(request.prompt) - self._context_length),
        )
        self._waiting.append(text)
        return text.request_id

    def cancel(self, request_id: int) -> None:
        """End a text without a further piece; one that has ended is ignored."""
        for text in (*self._waiting, *self._active):
            if text.request_id == request_id:
                text.is_cancelled = True

    def step(self) -> list[Piece]:
        """Advance all texts; return what is new of each."""
        self._drop_cancelled()
        self._admit()
        pieces: list[Piece] = []
        ready = [text for text in self._active if text.num_pending == 1]
        reading = [text for text in self._active if text.num_pending > 1]
        if reading:
            pieces += self._advance(self._share_prefill(reading))
        if ready:
            pieces += self._advance([(text, 1) for text in ready])
        return pieces

    def run(self, requests: Sequence[GenerationRequest]) -> Iterator[Piece]:
        """Generate texts; their request ids are consecutive, in the order of the requests."""
        for request in requests:
            self.add(request)
        while self.has_work:
            yield from self.step()

    def _drop_cancelled(self) -> None:
        self._waiting = deque(text for text in self._waiting if not text.is_cancelled)
        for text in [text for text in self._active if text.is_cancelled]:
            self._release(text)

    def _release(self, text: _Text) -> None:
        self._active.remove(text)
        self._moves[text.replica] += self._rows[text.replica].release(text.cached)

    def _admit(self) -> None:
        """Give waiting texts the free rows, those of the replica with the fewest texts first."""
        while self._waiting:
            replica = min(range(len(self._rows)), key=lambda number: self._rows[number].num_active)
            if not self._rows[replica].has_room:
                return
            text = self._waiting.popleft()
            text.replica = replica
            text.cached, moves = self._rows[replica].take(text.history[text.first :], adapter=text.request.adapter)
            self._moves[replica] += moves
            self._active.append(text)

    def _share_prefill(self, reading: Sequence[_Text]) -> list[tuple[_Text, int]]:
        """Divide a step's prompt tokens, counted with the padding of shorter prompts; the first gets its share."""
        shares: list[tuple[_Text, int]] = []
        width = 0
        for text in reading:
            count = min(text.num_pending, self._prefill_tokens)
            width = max(width, count)
            if shares and (len(shares) + 1) * width > self._prefill_tokens:
                break
            shares.append((text, count))
        return shares

    def _advance(self, shares: Sequence[tuple[_Text, int]]) -> list[Piece]:
        """Let the model read the next ids of texts, and sample where it has read all."""
        logits = self._forward(shares)
        # A text is whole if its logits follow its last id.
        done = [(text, row) for (text, _), row in zip(shares, logits, strict=True) if text.num_pending == 0]
        if not done:
            return []
        table = torch.stack([row for _, row in done])[:, : self._vocab_size]
        is_finite = table.isfinite().all(dim=1).tolist()
        failed = [_fail(text) for (text, _), fine in zip(done, is_finite, strict=True) if not fine]
        kept = [text for (text, _), fine in zip(done, is_finite, strict=True) if fine]
        table = table[is_finite]
        sampled = sample_rows(table, [text.sampler for text in kept]) if kept else []
        pieces = [
            self._append(text, token, row) for text, token, row in zip(kept, sampled, table, strict=True)
        ] + failed
        ended = {piece.request_id for piece in pieces if piece.finish_reason or piece.error}
        for text in [text for text, _ in done if text.request_id in ended]:
            self._release(text)
        return pieces

    def _forward(self, shares: Sequence[tuple[_Text, int]]) -> list[torch.Tensor]:
        """Run the model; return the logits [v] after the last id of each share."""
        placed: list[list[tuple[int, _Text, int]]] = [[] for _ in self._rows]
        for text, count in shares:
            placed[text.replica].append((self._rows[text.replica].row_of(text.cached), text, count))
        steps = []
        for replica, found in enumerate(placed):
            found.sort(key=lambda entry: entry[0])
            rows = tuple(self._next_ids(row, text, count) for row, text, count in found)
            steps.append(ReplicaStep(moves=tuple(self._moves[replica]), rows=rows))
            self._moves[replica] = []
        logits: dict[int, torch.Tensor] = {}
        for found, result in zip(placed, self._runner.run(steps), strict=True):
            for number, (_, text, count) in enumerate(found):
                assert result is not None
                logits[text.request_id] = result[number]
                begin = text.first + len(text.cached.tokens)
                text.cached.tokens += text.history[begin : begin + count]
        return [logits[text.request_id] for text, _ in shares]

    @staticmethod
    def _next_ids(row: int, text: _Text, count: int) -> NewTokens:
        start = len(text.cached.tokens)
        begin = text.first + start
        tokens = tuple(text.history[begin : begin + count])
        return NewTokens(row=row, start=start, tokens=tokens, adapter=text.request.adapter)

    def _append(self, text: _Text, token: int, logits: torch.Tensor) -> Piece:
        """Add a sampled token to a text, and decide whether that ends it."""
        request = text.request
        if token in request.stop_ids:
            return Piece(request_id=text.request_id, text=text.stream.finish(), finish_reason=FinishReason.STOP)
        text.history.append(token)
        logprobs = () if request.num_logprobs is None else (_describe(token, logits, count=request.num_logprobs),)
        new = text.stream.push(token)
        reason = FinishReason.STOP if text.stream.is_stopped else None
        if reason is None and self._is_at_limit(text):
            reason = FinishReason.LENGTH
            new += text.stream.finish()
            if text.stream.is_stopped:
                reason = FinishReason.STOP
        return Piece(request_id=text.request_id, text=new, tokens=(token,), logprobs=logprobs, finish_reason=reason)

    def _is_at_limit(self, text: _Text) -> bool:
        if text.num_generated >= text.request.max_new_tokens:
            return True
        if len(text.cached.tokens) < self._context_length:
            return False
        if not text.request.continues_past_context:
            return True
        text.first = len(text.history) - max(1, self._context_length // 2)
        text.cached.tokens.clear()
        return False


def _fail(text: _Text) -> Piece:
    error = f"The model's logits are not finite at token {len(text.history)}. Its weights are too large, or damaged."
    return Piece(request_id=text.request_id, text=text.stream.finish(), error=error)


def _describe(token: int, logits: torch.Tensor, *, count: int) -> TokenLogprob:
    logprobs = logits.log_softmax(dim=0)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return TokenLogprob(
        token=token,
        logprob=float(logprobs[token]),
        top=tuple(zip(ids.tolist(), values.tolist(), strict=True)),
    )
