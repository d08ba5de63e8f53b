"""Score sentences with a masked language model, for items that are pairs of sentences. n: items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer.fairness.items import PairItem
from trainer.fairness.scoring import Show
from trainer.inference.batch_model import BatchModel, InputRow
from trireme.examples.frame import Frame
from trireme.tokenizer.tokenizer import Tokenizer


def encode_pairs(
    items: Sequence[PairItem], *, tokenizer: Tokenizer, mask_id: int, max_length: int
) -> tuple[list[PairItem], list[InputRow], list[tuple[int, int, int]]]:
    """Encode each sentence once for each of its tokens, which is masked.

    Returns:
        the items that fit into the model's context; the rows; and for each row the number of its sentence (`more` of
        item i is 2i, `less` 2i + 1), the place of the mask, and the token that it hides.
    """
    frame = Frame(tokenizer, num_texts=1)
    special = set(tokenizer.special_tokens.values())
    kept: list[PairItem] = []
    rows: list[InputRow] = []
    places: list[tuple[int, int, int]] = []
    for item in items:
        documents = [frame.assemble([tokenizer.encode(text)])[0] for text in (item.more, item.less)]
        if max(map(len, documents)) > max_length:
            continue
        for side, document in enumerate(documents):
            for place, token in enumerate(document.tokens.tolist()):
                if token not in special:
                    tokens = document.tokens.copy()
                    tokens[place] = mask_id
                    rows.append(InputRow(tokens=tokens))
                    places.append((2 * len(kept) + side, place, token))
        kept.append(item)
    return kept, rows, places


def score_masked(
    model: BatchModel,
    rows: Sequence[InputRow],
    places: Sequence[tuple[int, int, int]],
    *,
    num_items: int,
    vocab_size: int,
    show: Show,
) -> np.ndarray:
    """Sum the log-probabilities of the hidden tokens by sentence; all ranks call this.

    Args:
        vocab_size: tokens without the padding of the vocabulary.
    Returns:
        [num_items, 2] pseudo-log-likelihoods on rank 0; on others zeros.
    Source: Salazar et al. 2020, "Masked Language Model Scoring".
    """

    def take(output: torch.Tensor, numbers: Sequence[int]) -> list[Any]:
        found = []
        for index, number in enumerate(numbers):
            _, place, token = places[number]
            found.append(float(output[index, place, :vocab_size].float().log_softmax(dim=-1)[token]))
        return found

    sums = np.zeros(2 * num_items)
    done = 0
    for part in model.compute(rows, take):
        for number, logprob in part.items():
            sums[places[number][0]] += logprob
        done += len(part)
        show(done * num_items // max(1, len(rows)))
    return sums.reshape(num_items, 2)
