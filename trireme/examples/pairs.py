"""Encode preferences: the chosen and the rejected answer to one prompt, as two documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from trireme.examples.chat import ASSISTANT, ConversationEncoder
from trireme.examples.completion import CompletionEncoder
from trireme.examples.document import EncodedDocument, ExampleRefusal, Truncation, fit_document

Messages = Sequence[Mapping[str, Any]]


class PreferenceEncoder:
    """Encode preferences; only the answers are targets, not earlier ones in the prompt.

    Args:
        conversations: for prompts that are messages; None where there is no chat template.
        completions: for prompts that are texts.
    """

    def __init__(self, conversations: ConversationEncoder | None, completions: CompletionEncoder) -> None:
        self._conversations, self._completions = conversations, completions

    def encode(
        self, prompt: str | Messages, chosen: str | Messages, rejected: str | Messages
    ) -> tuple[EncodedDocument, EncodedDocument]:
        """Encode a preference.

        Args:
            prompt: a text, or the messages before the answer.
            chosen: the answer: a text, or messages of the assistant.
            rejected: as chosen.
        Returns:
            The documents of prompt and chosen, and of prompt and rejected.
        Raises:
            ExampleRefusal: the answers are equal, or one of the documents cannot be encoded.
        """
        if chosen == rejected:
            raise ExampleRefusal("same_answers")
        return self._encode(prompt, chosen), self._encode(prompt, rejected)

    def _encode(self, prompt: str | Messages, answer: str | Messages) -> EncodedDocument:
        if isinstance(prompt, str) and isinstance(answer, str):
            return self._completions.encode(prompt, answer)
        assert self._conversations is not None, "messages without a chat template"
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        after = [{"role": ASSISTANT, "content": answer}] if isinstance(answer, str) else list(answer)
        earlier = [{**message, "weight": 0} for message in before]
        return self._conversations.encode([*earlier, *after])


def fit_pair(
    pair: tuple[EncodedDocument, EncodedDocument], *, seq_length: int, truncation: Truncation
) -> tuple[EncodedDocument, ...]:
    """Make a pair fit one row: where both together are too long, each is cut to half a row.

    Raises:
        ExampleRefusal: it is too long and truncation is `drop`, or nothing to learn from is left.
    """
    total = sum(map(len, pair))
    if total <= seq_length:
        return tuple(fit_document(document, max_tokens=seq_length, truncation=truncation) for document in pair)
    if truncation == "drop":
        raise ExampleRefusal("too_long", f"{total} tokens of both answers, a row has room for {seq_length}")
    return tuple(fit_document(document, max_tokens=seq_length // 2, truncation=truncation) for document in pair)
