"""Write the answers of OpenAI's API: whole ones, and the chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.inference.request import FinishReason, Piece, TokenLogprob
from trainer.inference.token_text import token_bytes, token_text
from trireme.tokenizer.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Usage:
    """Count the tokens of a request."""

    prompt_tokens: int
    """Of all prompts, each counted once."""
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the `usage` of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(kw_only=True)
class FinishedText:
    """Hold one whole text."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        """Add what a step brought."""
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason


class AnswerWriter:
    """Write the answers to one request.

    Args:
        model: name of the model.
        is_chat: /v1/chat/completions, else /v1/completions.
        has_logprobs: whether log-probabilities were requested.
        num_chosen: number of texts for each prompt.
    """

    def __init__(self, *, model: str, tokenizer: Tokenizer, is_chat: bool, has_logprobs: bool) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._is_chat, self._has_logprobs = is_chat, has_logprobs
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._offsets: dict[int, int] = {}

    def whole(self, texts: Sequence[FinishedText], *, prefixes: Sequence[str], usage: Usage) -> dict[str, Any]:
        """Return the answer of a request without a stream.

        Args:
            prefixes: texts to put before each one: the prompts, if they are echoed.
        """
        choices = []
        for index, (text, prefix) in enumerate(zip(texts, prefixes, strict=True)):
            choice: dict[str, Any] = {"index": index, "finish_reason": text.finish_reason}
            if self._is_chat:
                choice["message"] = {"role": "assistant", "content": text.text, "refusal": None}
            else:
                choice["text"] = prefix + text.text
            choice["logprobs"] = self._logprobs(index, text.logprobs)
            choices.append(choice)
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage.to_json()}

    def first_chunk(self, index: int, *, prefix: str) -> dict[str, Any] | None:
        """Return the chunk that opens a text, if there is one: the role of a message, or an echoed prompt."""
        if self._is_chat:
            return self._chunk(index, delta={"role": "assistant", "content": "", "refusal": None})
        return self._chunk(index, text=prefix) if prefix else None

    def chunk(self, index: int, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk of what a step brought, or None where it brought nothing to show."""
        if not piece.text and not piece.logprobs and piece.finish_reason is None:
            return None
        shown = {"delta": {"content": piece.text} if piece.text else {}} if self._is_chat else {"text": piece.text}
        return self._chunk(
            index,
            logprobs=self._logprobs(index, piece.logprobs) if piece.logprobs else None,
            finish_reason=piece.finish_reason,
            **shown,
        )

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk that counts tokens."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage.to_json()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, index: int, **choice: Any) -> dict[str, Any]:
        whole = {"index": index, "logprobs": None, "finish_reason": None, **choice}
        return {**self._head(self._chunk_kind), "choices": [whole]}

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        if self._is_chat:
            content = [
                {**self._token(entry.token, entry.logprob), "top_logprobs": [self._token(*top) for top in entry.top]}
                for entry in entries
            ]
            return {"content": content, "refusal": None}
        texts = [token_text(entry.token, self._tokenizer) for entry in entries]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                {token_text(token, self._tokenizer): logprob for token, logprob in entry.top} for entry in entries
            ],
            "text_offset": offsets,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(token, self._tokenizer),
            # JSON has no infinity.
            "logprob": max(logprob, -9999.0),
            "bytes": token_bytes(token, self._tokenizer),
        }
