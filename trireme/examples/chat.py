"""Encode conversations for instruction tuning: what the assistant says is the target, found by prefix difference.

The conversation is rendered by the model's chat template up to each answer, with the words that begin an answer, and
with the answer: the difference is what the assistant said and how it ended. Where the beginning is not a prefix of the
whole, as with templates that drop an earlier thought, no mask would be right, and the example is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trireme.examples.document import EncodedDocument, ExampleRefusal, label_next_tokens
from trireme.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from trireme.tokenizer.tokenizer import Tokenizer

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
"""Roles that a conversation may have; the template decides which of them, and in which order, it takes."""


class ConversationEncoder:
    """Encode conversations with a chat template.

    The targets of an answer end with its end token (such as `<|im_end|>`), which teaches the model to stop; what the
    template writes after it is no target. Where a template ends its answers with no special token, the tokenizer's eos
    is appended to a conversation that ends with an answer.

    Args:
        tokenizer: of the model.
        template: of the model.
        only_last: only the last answer of a conversation is a target.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, *, only_last: bool = False) -> None:
        self._tokenizer, self._template, self._only_last = tokenizer, template, only_last
        self._specials = frozenset(tokenizer.special_tokens.values()) | ({tokenizer.eos_id} - {None})

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> EncodedDocument:
        """Encode a conversation; the ids are those of transformers' `apply_chat_template` where it ends an answer.

        Args:
            messages: with `role` and `content`; an answer whose `weight` is 0 is no target, as in OpenAI's format.
        Raises:
            ExampleRefusal: a role is unknown, a message is empty, there is no answer to learn from, the template
                refuses the conversation, or the prefix property does not hold.
        """
        _check_messages(messages)
        answers = [turn for turn, message in enumerate(messages) if message["role"] == ASSISTANT]
        if self._only_last:
            answers = answers[-1:]
        trained = [turn for turn in answers if messages[turn].get("weight", 1) != 0]
        if not trained:
            raise ExampleRefusal("no_target", "no answer of the assistant")
        whole = self._render(messages, is_answering=False)
        is_target = np.zeros(len(whole) + 1, np.bool_)
        has_end = True
        for turn in trained:
            before = self._render(messages[:turn], is_answering=True)
            is_last = turn == len(messages) - 1
            through = whole if is_last else self._render(messages[: turn + 1], is_answering=False)
            _check_prefix(before, through, whole, turn=turn)
            end = self._find_end(through, begin=len(before))
            has_end = end is not None
            is_target[len(before) : end or len(through)] = True
        if not has_end and trained[-1] == len(messages) - 1 and self._tokenizer.eos_id is not None:
            is_target[len(whole)] = True
            whole = [*whole, self._tokenizer.eos_id]
        tokens = np.array(whole, np.int32)
        labels = label_next_tokens(tokens, is_target[: len(tokens)])
        return EncodedDocument(tokens=tokens, labels=labels, texts=tuple(_text_of(messages[turn]) for turn in trained))

    def encode_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the ids of a conversation and of the words that begin the assistant's answer to it.

        Raises:
            ExampleRefusal: the template refuses the conversation.
        """
        return self._render(messages, is_answering=True)

    def _render(self, messages: Sequence[Mapping[str, Any]], *, is_answering: bool) -> list[int]:
        try:
            return self._template.encode(messages, add_generation_prompt=is_answering)
        except TemplateRefusal as refusal:
            raise ExampleRefusal("template_refusal", str(refusal)) from refusal

    def _find_end(self, ids: list[int], *, begin: int) -> int | None:
        """Return the position after the end token of the answer that begins at `begin`; None if there is none."""
        end = None
        for place in range(len(ids) - 1, begin - 1, -1):
            if ids[place] in self._specials:
                end = place + 1
            elif self._tokenizer.decode([ids[place]]).strip():
                break
        return end


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    for turn, message in enumerate(messages, start=1):
        if message["role"] not in ROLES:
            raise ExampleRefusal("unknown_role", f"message {turn} has role {message['role']!r}")
        if not str(message.get("content") or "").strip() and not message.get("tool_calls"):
            raise ExampleRefusal("empty_turn", f"message {turn} ({message['role']})")


def _check_prefix(before: list[int], through: list[int], whole: list[int], *, turn: int) -> None:
    is_prefix = whole[: len(through)] == through and through[: len(before)] == before and len(before) < len(through)
    if not is_prefix:
        raise ExampleRefusal("prefix_property", f"message {turn + 1} (assistant)")


def _text_of(message: Mapping[str, Any]) -> str | None:
    return None if message.get("tool_calls") else str(message["content"])
