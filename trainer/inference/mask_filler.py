"""Predict the hidden tokens of texts with a masked language model. b: texts, s: tokens, v: vocabulary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.inference.batch_model import BatchModel, InputRow
from trireme.examples.frame import Frame
from trireme.tokenizer.tokenizer import Tokenizer

MASK = "[MASK]"
"""Stands for the model's mask token in texts, whatever its own spelling."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Hold a token that may stand in place of a mask."""

    token: str
    token_id: int
    probability: float


class MaskedText(ValueError):
    """Say why a text cannot be filled in."""


class TextEncoder:
    """Encode texts with masks.

    Args:
        tokenizer: of the model.
        mask_id: its mask token.
        max_length: positions of the model.
    """

    def __init__(self, tokenizer: Tokenizer, *, mask_id: int, max_length: int) -> None:
        self._tokenizer, self._mask_id, self._max_length = tokenizer, mask_id, max_length
        self._frame = Frame(tokenizer, num_texts=1)
        self._special = {token: name for name, token in tokenizer.special_tokens.items() if token != mask_id}

    def encode(self, text: str) -> InputRow:
        """Encode a text with the special tokens around it that the model knows.

        Raises:
            MaskedText: it has no mask, spells another special token, or is too long.
        """
        spelled = text.replace(MASK, self._tokenizer.token_name(self._mask_id) or MASK)
        ids = self._tokenizer.encode_with_special(spelled)
        if self._mask_id not in ids:
            raise MaskedText(f"contains no {MASK}")
        other = next((self._special[token] for token in ids if token in self._special), None)
        if other is not None:
            raise MaskedText(f"spells the special token {other}")
        document, _ = self._frame.assemble([ids])
        if len(document) > self._max_length:
            raise MaskedText(f"has {len(document)} tokens, and the model has {self._max_length} positions")
        return InputRow(tokens=document.tokens)


def fill_masks(
    model: BatchModel, rows: Sequence[InputRow], *, mask_id: int, top_k: int, vocab_size: int
) -> Iterator[dict[int, list[list[tuple[int, float]]]]]:
    """Compute the most likely tokens at each mask; all ranks call this.

    Args:
        rows: the same on every rank.
        top_k: tokens per mask.
        vocab_size: tokens without the padding of the vocabulary.
    Yields:
        By number of row, for each of its masks in order: ids and probabilities, the most likely first. On rank 0 only.
    """
    places = [torch.from_numpy(row.tokens == mask_id).nonzero()[:, 0] for row in rows]

    def take(output: torch.Tensor, numbers: Sequence[int]) -> list[Any]:
        found = []
        for index, number in enumerate(numbers):
            logits = output[index, places[number].to(output.device), :vocab_size].float()
            best = logits.softmax(dim=-1).topk(min(top_k, vocab_size))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found.append([list(zip(ids, probabilities, strict=True)) for ids, probabilities in pairs])
        return found

    yield from model.compute(rows, take)


def name_candidates(found: Sequence[tuple[int, float]], *, tokenizer: Tokenizer) -> list[Candidate]:
    """Return candidates with their text; a token without text of its own is named."""
    return [
        Candidate(
            token=tokenizer.decode([token]) or tokenizer.token_name(token) or "",
            token_id=token,
            probability=probability,
        )
        for token, probability in found
    ]
