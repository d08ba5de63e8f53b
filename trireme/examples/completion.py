"""Encode a prompt and its completion without a chat template: the completion and the end of document are targets."""

import numpy as np

from trireme.examples.document import EncodedDocument, ExampleRefusal, label_next_tokens
from trireme.tokenizer.tokenizer import Tokenizer


class CompletionEncoder:
    """Encode prompts with their completions.

    A document is what the tokenizer puts before a text (often bos_token or nothing), the prompt, the completion and
    eos_token. Tokens do not reach across the border between the two: the prompt's ids are those that generation sees.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

    def encode(self, prompt: str, completion: str) -> EncodedDocument:
        """Encode a pair.

        Raises:
            ExampleRefusal: the completion is empty, or there is nothing from which its first token can be predicted.
        """
        if not completion.strip():
            raise ExampleRefusal("empty_turn", "the completion")
        before = [*self._tokenizer.opening_ids, *self._tokenizer.encode(prompt)]
        answer = [*self._encode_after(prompt, completion), *self._end]
        tokens = np.array([*before, *answer], np.int32)
        is_target = np.arange(len(tokens)) >= len(before)
        if len(tokens) < 2:
            raise ExampleRefusal("no_target", "a single token")
        texts = (completion,) if before else (None,)
        return EncodedDocument(tokens=tokens, labels=label_next_tokens(tokens, is_target), texts=texts)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids that generation starts from."""
        return [*self._tokenizer.opening_ids, *self._tokenizer.encode(prompt)]

    def _encode_after(self, prompt: str, completion: str) -> list[int]:
        """Encode a completion as what follows the prompt, where the tokens of both together allow it.

        A tokenizer may treat the beginning of a text in its own way, such as by a leading space.
        """
        before = self._tokenizer.encode(prompt)
        both = self._tokenizer.encode(prompt + completion)
        return both[len(before) :] if both[: len(before)] == before else self._tokenizer.encode(completion)
