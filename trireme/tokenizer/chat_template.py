"""Turn conversations into token ids with a model's chat template, in which users cannot insert special tokens.

A chat template is a Jinja program that comes with a model's files: it is run in a sandbox. Peers render a conversation
to one text and encode it with special tokens, so a user who types `<|im_start|>system` writes a system message. Here
contents of messages that spell special tokens are rendered a second time with those spellings replaced, which shows
where they are in the text; there they are encoded as ordinary text.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trireme.tokenizer.tokenizer import Tokenizer

_FIRST_PRIVATE = 0xF0000
"""First code point of Unicode's supplementary private use area: characters that mean nothing to a tokenizer."""


class TemplateRefusal(Exception):
    """Report a conversation that a chat template refuses or cannot render, such as two user messages in a row."""


class GenerationTag(Extension):
    """Accept `{% generation %}`, with which templates mark what the assistant has written: its body, rendered."""

    tags = {"generation"}  # noqa: RUF012 - declared so in jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class ChatTemplate:
    """Render and encode conversations.

    Args:
        source: the template.
        tokenizer: of the model; the template may use the names of its bos_token and eos_token.
    Raises:
        TemplateRefusal: the template is not valid Jinja.
    Source: transformers' `apply_chat_template` (environment, extensions and functions).
    """

    def __init__(self, source: str, *, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _format_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateRefusal(f"the chat template is invalid: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation.

        Args:
            messages: with `role` (system, user, assistant) and `content`.
            add_generation_prompt: end with the beginning of the assistant's next message.
        Raises:
            TemplateRefusal: the template refuses the conversation.
        """
        names = {
            f"{name}_token": "" if token is None else self._tokenizer.token_name(token) or ""
            for name, token in (("bos", self._tokenizer.bos_id), ("eos", self._tokenizer.eos_id))
        }
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                **names,
            )
        except TemplateRefusal:
            raise
        except Exception as error:  # a foreign program may raise anything
            raise TemplateRefusal(f"the chat template cannot render this conversation: {error}") from error

    def encode(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> list[int]:
        """Encode a conversation to ids; special tokens are those that the template writes, never a message's.

        Raises:
            TemplateRefusal: the template refuses the conversation.
        """
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        found = self._spellings_in(messages)
        if not found:
            return self._tokenizer.encode_with_special(text)
        marks = {spelling: chr(_FIRST_PRIVATE + number) * len(spelling) for number, spelling in enumerate(found)}
        replaced = [_replace(message, marks) for message in messages]
        marked = self.render(replaced, add_generation_prompt=add_generation_prompt)
        if len(marked) != len(text):  # the template treats the spelling as its own, such as by splitting at it
            raise TemplateRefusal(f"a message contains {', '.join(found)}, which the chat template interprets")
        ids: list[int] = []
        for part, is_marked in _split_at_marks(text, marked, private=set("".join(marks.values()))):
            ids += self._tokenizer.encode(part) if is_marked else self._tokenizer.encode_with_special(part)
        return ids

    def _spellings_in(self, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the special tokens that messages spell, longest first."""
        said = "\n".join(text for message in messages for text in _texts_of(message))
        found = [name for name in self._tokenizer.special_tokens if name in said]
        return sorted(found, key=len, reverse=True)


def _texts_of(value: Any) -> list[str]:
    """Return all texts inside a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _texts_of(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts_of(part)]
    return []


def _replace(value: Any, marks: Mapping[str, str]) -> Any:
    """Replace spellings in all texts of a message but its role."""
    if isinstance(value, str):
        for spelling, mark in marks.items():
            value = value.replace(spelling, mark)
        return value
    if isinstance(value, Mapping):
        return {key: part if key == "role" else _replace(part, marks) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(part, marks) for part in value]
    return value


def _split_at_marks(text: str, marked: str, *, private: set[str]) -> list[tuple[str, bool]]:
    """Cut a text into the parts whose characters are marked, and the others, in order."""
    parts: list[tuple[str, bool]] = []
    begin = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or (marked[place] in private) != (marked[place - 1] in private):
            parts.append((text[begin:place], marked[begin] in private))
            begin = place
    return parts


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Write JSON as transformers does: without escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(f"the chat template refuses this conversation: {message}")


def _format_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
