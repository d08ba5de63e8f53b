"""Choose and hide the tokens that a masked language model predicts. b: sequences, s: tokens of a sequence."""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from trainer.config.run import DataConfig
from trainer.data.micro_batch import PADDING, MicroBatch
from trireme.tokenizer.tokenizer import Tokenizer
from trireme.tokenizer.words import WordStarts, find_mask_token, read_word_list


@dataclass(frozen=True, kw_only=True)
class MaskedLmConfig:
    """Configure masking: the fields of DataConfig of these names."""

    mask_prob: float
    mask_token_id: int
    mask_token_share: float
    random_token_share: float
    vocab_size: int
    """Tokens that a random replacement is drawn from."""


class Masking:
    """Turn micro batches for the next token into micro batches for hidden tokens.

    Of the chosen tokens most become the mask token, some a random token, and the others stay as they are; the loss
    counts chosen tokens only. What is chosen depends on seed and sample number, and on nothing else: not on the layout,
    the order of reading or a resume.

    Args:
        seed: of the run.
        protected: tokens that are never chosen and never drawn: special tokens and the end of documents.
        word_starts: tells where words begin; then words are chosen whole. None chooses tokens one by one.
    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 3.1; whole words in its repository's update of 2019;
    30 % in Wettig et al. 2022 (arXiv:2202.08005) and ModernBERT (arXiv:2412.13663).
    """

    def __init__(
        self,
        config: MaskedLmConfig,
        *,
        seed: int,
        protected: Collection[int],
        word_starts: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.config = config
        self._seed = seed
        self._protected = np.zeros(config.vocab_size, dtype=bool)
        self._protected[[token for token in {*protected, config.mask_token_id} if token < config.vocab_size]] = True
        self._drawn = np.flatnonzero(~self._protected)
        self._word_starts = word_starts

    def __call__(self, batch: MicroBatch) -> MicroBatch:
        """Hide tokens: labels are the tokens at the same positions, and the loss mask is 1 where they were chosen."""
        tokens = batch.tokens.clone()
        chosen = np.zeros(tokens.shape, dtype=bool)
        hidden = tokens.numpy()
        for row, sample in enumerate(batch.sample_ids):
            if sample != PADDING:
                chosen[row] = self._hide(hidden[row], sample)
        return replace(batch, tokens=tokens, labels=batch.tokens, loss_mask=torch.from_numpy(chosen.astype(np.float32)))

    def _hide(self, tokens: np.ndarray, sample: int) -> np.ndarray:
        """Replace chosen tokens of one sequence in place; [s] bool tells which were chosen."""
        generator = np.random.Generator(np.random.Philox(key=[self._seed, 0x6D6C6D], counter=[0, 0, 0, sample]))
        draws = generator.random((3, len(tokens)))
        selects = draws[0]
        if self._word_starts is not None:
            # Every token of a word has the draw of its first one.
            selects = selects[np.maximum.accumulate(np.where(self._word_starts(tokens), np.arange(len(tokens)), 0))]
        chosen = (selects < self.config.mask_prob) & ~self._protected[tokens]
        replaced = self._drawn[(draws[2] * len(self._drawn)).astype(np.int64)]
        masked_end = self.config.mask_token_share
        random_end = masked_end + self.config.random_token_share
        becomes_random = chosen & (draws[1] >= masked_end) & (draws[1] < random_end)
        tokens[becomes_random] = replaced[becomes_random]
        tokens[chosen & (draws[1] < masked_end)] = self.config.mask_token_id
        return chosen


def build_masking(
    data: DataConfig, *, seed: int, vocab_size: int, eod_token_id: int | None, tokenizer: Tokenizer | None
) -> Masking | None:
    """Build the masking that a configuration asks for; None if the model predicts next tokens.

    Raises:
        ConfigError: the word list cannot be read.
    """
    if data.mask_prob is None:
        return None
    mask_token_id = data.mask_token_id
    if mask_token_id is None:
        mask_token_id = find_mask_token(tokenizer) if tokenizer is not None else None
    assert mask_token_id is not None, "checked before the start"
    protected = set(tokenizer.special_tokens.values()) if tokenizer is not None else set()
    if tokenizer is not None and tokenizer.unknown_id is not None:
        protected.add(tokenizer.unknown_id)
    if eod_token_id is not None:
        protected.add(eod_token_id)
    word_starts = None
    if data.mask_whole_words:
        assert tokenizer is not None, "checked before the start"
        word_starts = _word_starts(tokenizer, data.mask_word_list)
    return Masking(
        MaskedLmConfig(
            mask_prob=data.mask_prob,
            mask_token_id=mask_token_id,
            mask_token_share=data.mask_token_share,
            random_token_share=data.random_token_share,
            vocab_size=vocab_size,
        ),
        seed=seed,
        protected=protected,
        word_starts=word_starts,
    )


@functools.lru_cache(maxsize=1)
def _word_starts(tokenizer: Tokenizer, word_list: str | None) -> WordStarts:
    """Return what training and validation share: it looks at every token of the vocabulary."""
    words = () if word_list is None else read_word_list(word_list, setting="data.mask_word_list")
    return WordStarts(tokenizer, word_list=words)
