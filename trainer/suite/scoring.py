"""Encode and score multiple-choice items as EleutherAI's lm-evaluation-harness does."""

from collections.abc import Sequence

import numpy as np

from trainer.suite.items import Item
from trireme.tokenizer.tokenizer import Tokenizer


def encode_choice(item: Item, choice: int, *, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Encode an item's context and one of its choices.

    Source: `TemplateLM._encode_pair` of lm-evaluation-harness: spaces at the end of the context go to the choice, and
        the choice is what the encoding of both has behind the length of the context's.
    """
    context, continuation = item.context, item.delimiter + item.choices[choice]
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    opening = tokenizer.opening_ids
    whole = [*opening, *tokenizer.encode(stripped + continuation)]
    before = [*opening, *tokenizer.encode(stripped)]
    return before, whole[len(before) :]


def score_items(items: Sequence[Item], sums: Sequence[Sequence[float]]) -> dict[str, float]:
    """Score a task from the log-likelihoods of its choices.

    Args:
        sums: of each item the sum of log-probabilities of each choice.
    Returns:
        acc: share of items whose right choice has the highest log-likelihood; acc_norm: the same after division by the
        number of its characters; acc_stderr: standard error of acc. These are the harness's definitions.
    """
    right, right_norm = [], []
    for item, logprobs in zip(items, sums, strict=True):
        values = np.array(logprobs)
        right.append(float(values.argmax() == item.answer))
        lengths = np.array([len(choice) for choice in item.choices], dtype=np.float64)
        right_norm.append(float((values / lengths).argmax() == item.answer))
    stderr = float(np.std(right, ddof=1) / np.sqrt(len(right))) if len(right) > 1 else 0.0
    return {"acc": float(np.mean(right)), "acc_norm": float(np.mean(right_norm)), "acc_stderr": stderr}
