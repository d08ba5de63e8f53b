"""Describe texts to generate, and what comes back of them piece by piece."""

from dataclasses import dataclass, field
from enum import StrEnum

from trainer.inference.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Describe one text to generate."""

    prompt: tuple[int, ...]
    """At least one id."""
    max_new_tokens: int
    """At least 1."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int | None = None
    """From 0 to 2**64 - 1; None draws one."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    stop_ids: frozenset[int] = frozenset()
    """Ids that end the text; they are not part of it."""
    num_logprobs: int | None = None
    """Most likely tokens to report at each position, besides the chosen one; None reports no log-probabilities."""
    adapter: int = 0
    """Number of the adapter that the text is generated with; 0 for none."""
    continues_past_context: bool = False
    """When the model's context is full, continue with its latest half; otherwise the text ends there."""


class FinishReason(StrEnum):
    """Name why a text has ended, as OpenAI's API does."""

    STOP = "stop"
    """An end token or a stop string."""
    LENGTH = "length"
    """max_new_tokens, or the end of the model's context."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """Hold a token with its log-probability, and the most likely tokens of its position."""

    token: int
    logprob: float
    """Natural logarithm, of the model's own distribution: before penalties, temperature and filters."""
    top: tuple[tuple[int, float], ...] = ()
    """Ids and log-probabilities, most likely first."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Hold what a step added to a text."""

    request_id: int
    text: str
    """Text that is certain now; often empty, since characters and stop strings may span tokens."""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens, if requested."""
    finish_reason: FinishReason | None = None
    """Set in the last piece."""
    error: str | None = None
    """Why the model cannot continue, in the last piece: its logits are not finite."""
