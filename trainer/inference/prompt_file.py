"""Read prompts from JSON lines, and write what the model makes of them, in the same order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from trainer.inference.generator import Generator
from trainer.inference.request import GenerationRequest, Piece, TokenLogprob
from trainer.inference.valid_text import find_surrogate
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer

MAX_ERRORS = 20
"""Invalid lines that are reported; a file of another kind has one in every line."""
QUEUE_FACTOR = 2
"""Texts that are given to the generator ahead, in units of what it works on at once."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Hold one line of the input."""

    line: int
    record: Mapping[str, Any]
    """The whole object; its other keys are passed on to the output."""

    @property
    def text(self) -> str | None:
        """Return `prompt`; None if the line has `messages`."""
        text: str | None = self.record.get("prompt")
        return text

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Return `messages`, for the model's chat template."""
        messages: Sequence[Mapping[str, Any]] = self.record.get("messages", [])
        return messages


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Hold a finished text."""

    text: str
    finish_reason: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...]
    """Of the tokens, if requested."""


def read_prompts(stream: TextIO, *, name: str) -> list[Prompt]:
    """Read all lines: each an object with `prompt`, a text, or `messages`, a list of objects with role and content.

    Args:
        name: of the stream, for messages.
    Raises:
        ConfigError: lines are invalid; the first `MAX_ERRORS` of them are named.
    """
    prompts: list[Prompt] = []
    found: list[Violation] = []
    try:
        lines = stream.read().split("\n")  # not splitlines: JSON strings may contain the line ends of Unicode
    except UnicodeDecodeError as error:
        fix = "Convert it to UTF-8."
        raise ConfigError([Violation(path=name, value="", message=f"must be UTF-8: {error}", fix=fix)]) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        message, record = _read_line(line)
        if message:
            fix = 'Write a line as {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}.'
            found.append(
                Violation(
                    path=f"{name}, line {number}",
                    value=line[:80],
                    message=message,
                    fix=fix,
                )
            )
        else:
            prompts.append(Prompt(line=number, record=record))
    if len(found) > MAX_ERRORS:
        more = f"and {len(found) - MAX_ERRORS} more lines are invalid"
        found = [*found[:MAX_ERRORS], Violation(path=name, value="", message=more, fix="")]
    if not found and not prompts:
        found = [Violation(path=name, value="", message="contains no prompts", fix="Write one JSON object a line.")]
    if found:
        raise ConfigError(found)
    return prompts


def _read_line(line: str) -> tuple[str, dict[str, Any]]:
    """Return what is wrong with a line, or empty text, and its object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}", {}
    if not isinstance(record, dict):
        return "must be a JSON object", {}
    if (found := find_surrogate(record)) is not None:
        place, surrogate = found
        return f"contains {surrogate}, half of a character, in {place or 'the name of a key'}", {}
    if ("prompt" in record) == ("messages" in record):
        return "must have either prompt or messages", {}
    if "prompt" in record and not isinstance(record["prompt"], str):
        return "must have a text as prompt", {}
    messages = record.get("messages", [])
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in messages
    ):
        return "must have messages with role and content", {}
    if "messages" in record and not messages:
        return "must have at least one message", {}
    return "", record


def complete_in_order(generator: Generator, requests: Iterator[GenerationRequest]) -> Iterator[Completion]:
    """Generate texts, and yield them in the order of their requests.

    Requests are taken as they are needed, so a long input costs no memory.

    Raises:
        ValueError: the model's logits are not finite.
    """
    finished: dict[int, Completion] = {}
    parts: dict[int, list[Piece]] = {}
    order: list[int] = []
    is_exhausted = False
    while True:
        while not is_exhausted and generator.num_waiting < QUEUE_FACTOR * generator.max_active:
            request = next(requests, None)
            if request is None:
                is_exhausted = True
            else:
                order.append(generator.add(request))
                parts[order[-1]] = []
        for piece in generator.step() if generator.has_work else ():
            parts[piece.request_id].append(piece)
            if piece.error:
                raise ValueError(piece.error)
            if piece.finish_reason:
                finished[piece.request_id] = _join(parts.pop(piece.request_id))
        while order and order[0] in finished:
            yield finished.pop(order.pop(0))
        if is_exhausted and not order:
            return


def describe(
    prompt: Prompt, completion: Completion, *, sample: int | None, has_logprobs: bool, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return the object of an output line.

    Args:
        sample: number of the text among those of one prompt, from 0; None if there is one.
    """
    record: dict[str, Any] = {**prompt.record, "completion": completion.text}
    if sample is not None:
        record["sample"] = sample
    record |= {"finish_reason": completion.finish_reason, "num_tokens": completion.num_tokens}
    if has_logprobs:
        record["logprobs"] = [
            {"token": tokenizer.token_name(entry.token), "logprob": round(entry.logprob, 6)}
            for entry in completion.logprobs
        ]
    return record


def _join(pieces: Sequence[Piece]) -> Completion:
    return Completion(
        text="".join(piece.text for piece in pieces),
        finish_reason=str(pieces[-1].finish_reason),
        num_tokens=sum(len(piece.tokens) for piece in pieces),
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
    )
