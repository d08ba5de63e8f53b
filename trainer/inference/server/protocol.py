"""Define the requests of OpenAI's API that the server takes, and check them.

A field is refused where it is unknown, or known but not supported, rather than ignored; fields that do not change the
answer are ignored.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.inference.sampling import SamplingConfig
from trainer.inference.server.errors import ApiError, invalid
from trainer.inference.valid_text import find_surrogate

MAX_TEXTS = 128
"""Texts of one request: prompts times n."""
MAX_STOP = 16
"""Stop strings of one request."""

_UNSUPPORTED = (
    "audio",
    "best_of",
    "function_call",
    "functions",
    "logit_bias",
    "modalities",
    "prediction",
    "reasoning_effort",
    "response_format",
    "suffix",
    "tool_choice",
    "tools",
    "web_search_options",
)
_WITHOUT_EFFECT = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
_NEUTRAL: tuple[Any, ...] = (None, [], {}, "none", {"type": "text"}, ["text"])
"""Values of unsupported fields that ask for nothing."""


class StreamOptions(BaseModel):
    """Configure a stream."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    """End with a chunk that counts tokens."""
    include_obfuscation: bool = False
    """Accepted, without effect."""


class TextRequest(BaseModel):
    """Hold what both kinds of requests have in common."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=MAX_TEXTS)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value or [])] = (
        Field(default=[], max_length=MAX_STOP)
    )
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)

    @model_validator(mode="before")
    @classmethod
    def _drop_fields_without_effect(cls, values: Any) -> Any:
        assert isinstance(values, dict)
        dropped = (*_UNSUPPORTED, *_WITHOUT_EFFECT)
        return {name: value for name, value in values.items() if name in cls.model_fields or name not in dropped}

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: list[str]) -> list[str]:
        if "" in stop:
            raise ValueError("A stop string must not be empty.")
        return stop

    @model_validator(mode="after")
    def _check_stream_options(self) -> "TextRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("The field stream_options requires stream=true.")
        return self

    def sampling(self, defaults: dict[str, Any]) -> SamplingConfig:
        """Return the request's sampling; fields that it does not name have their defaults."""
        names = (*defaults, "presence_penalty", "frequency_penalty")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return SamplingConfig(**{**defaults, **given})


Request = TypeVar("Request", bound=TextRequest)


class CompletionRequest(TextRequest):
    """Hold a request of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _check_prompt(self) -> "CompletionRequest":
        if isinstance(self.prompt, list) and not self.prompt:
            raise ValueError("The prompt must not be an empty list.")
        if len(self.prompts) * self.n > MAX_TEXTS:
            raise ValueError(f"A request may ask for {MAX_TEXTS} texts: prompts times n.")
        if self.echo and self.logprobs is not None:
            raise ValueError("The fields echo and logprobs cannot be combined: prompts have no log-probabilities here.")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return list(self.prompt)  # type: ignore[arg-type]


class TextPart(BaseModel):
    """Hold a part of a message; other kinds than text are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Hold one message of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def to_template(self) -> dict[str, str]:
        """Return the message as chat templates expect it."""
        parts = self.content if isinstance(self.content, list) else [TextPart(type="text", text=self.content)]
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.text for part in parts)}


class ChatRequest(TextRequest):
    """Hold a request of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _check_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("The field top_logprobs requires logprobs=true.")
        return self

    @property
    def num_logprobs(self) -> int | None:
        """Return the number of likely tokens to report; None reports no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        """Return the largest number of new tokens, if one is given."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def parse_request(body: bytes, kind: type[Request]) -> Request:
    """Read a request.

    Raises:
        ApiError: it is not what the API defines; all errors are in the message.
    """
    try:
        # Python's JSON has NaN and Infinity, which JSON has not.
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    if (found := find_surrogate(content)) is not None:
        place, surrogate = found
        message = f"{f'The field {place}' if place else 'A name'} contains {surrogate}, half of a character."
        raise invalid(message, param=place.split(".")[0] or None, code="invalid_value")
    for name in _UNSUPPORTED:
        if name in content and name not in kind.model_fields and content[name] not in _NEUTRAL:
            raise invalid(f"The field {name} is not supported by this server. Leave it out.", param=name)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _describe(error) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _describe(error: ValidationError) -> ApiError:
    """Return all errors of a request in one; `param` names the first wrong field."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        names = [str(part) for part in detail["loc"]]
        # Alternatives of a field's type are named by pydantic after the field.
        path = ".".join(name for name in names if name.isidentifier() or name.isdigit())
        if detail["type"] == "extra_forbidden":
            text = f"The field {path} is unknown."
        elif detail["type"] == "missing":
            text = f"The field {path} is required."
        else:
            text = detail["msg"].removeprefix("Value error, ")
            text = text if not path or text.endswith(".") else f"The field {path} is invalid: {text}."
        found.setdefault(path, text)
    first = next(iter(found))
    return invalid(" ".join(dict.fromkeys(found.values())), param=first.split(".")[0] or None, code="invalid_value")
