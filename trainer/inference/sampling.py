"""Sample tokens from logits. v: tokens of the vocabulary, n: rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NUM_CANDIDATES = 1024
"""Most likely tokens among which top_p looks before it sorts the whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Configure how the next token is sampled. Filters apply in the order of the fields, as in transformers."""

    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that the text contains, its prompt included, and multiplies negative ones."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that were generated."""
    frequency_penalty: float = 0.0
    """Subtracted as often as a token was generated."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int = 0
    """Sample from this many most likely tokens only; 0 from all."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely tokens whose probabilities reach this sum; 1 from all."""
    min_p: float = 0.0
    """Sample from tokens that are at least this fraction as likely as the most likely one; 0 from all."""

    @property
    def is_greedy(self) -> bool:
        """Return whether the most likely token is taken: a divisor below the normal range of fp32 counts as 0."""
        return self.temperature < torch.finfo(torch.float32).tiny

    @property
    def has_penalties(self) -> bool:
        """Return whether the text so far changes the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class Sampler:
    """Sample the tokens of one text.

    Every sampled token takes one number from the generator, whatever the filters are, so equal seeds give equal texts.

    Args:
        prompt: ids before the first sampled token, for the repetition penalty.
        seed: from 0 to 2**64 - 1; None draws one.
    Source: repetition penalty Keskar et al. 2019 (CTRL, arXiv:1909.05858), top-k Fan et al. 2018 (arXiv:1805.04833),
        top-p Holtzman et al. 2019 (arXiv:1904.09751), min-p Nguyen et al. 2024 (arXiv:2407.01082), presence and
        frequency penalties OpenAI's API reference.
    """

    def __init__(self, config: SamplingConfig, *, prompt: Sequence[int] = (), seed: int | None = None) -> None:
        self.config = config
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._generated: Counter[int] = Counter()
        self._seen = set(prompt) if config.repetition_penalty != 1.0 else set()

    def sample(self, logits: torch.Tensor) -> int:
        """Sample the next token and remember it.

        Args:
            logits: [v] fp32 on the CPU; not changed.
        """
        if self.config.has_penalties:
            logits = self._penalize(logits)
        token = int(logits.argmax()) if self.config.is_greedy else self._draw(logits)
        self.record(token)
        return token

    def record(self, token: int) -> None:
        """Remember a token that was taken without `sample`."""
        if self.config.has_penalties:
            self._generated[token] += 1
            self._seen.add(token)

    def _penalize(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        if self.config.repetition_penalty != 1.0 and self._seen:
            seen = torch.tensor(sorted(self._seen))
            factor, values = self.config.repetition_penalty, logits[seen]
            logits[seen] = torch.where(values > 0, values / factor, values * factor)
        if self._generated:
            tokens, counts = torch.tensor(list(self._generated)), torch.tensor(list(self._generated.values()))
            logits[tokens] -= self.config.presence_penalty + self.config.frequency_penalty * counts
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        scores, tokens = divide(logits, self.config.temperature), None
        if self.config.top_k > 0:
            scores, tokens = scores.topk(min(self.config.top_k, len(scores)))
        probabilities = scores.softmax(dim=0)
        if self.config.top_p < 1.0:
            probabilities, chosen = _keep_nucleus(probabilities, top_p=self.config.top_p)
            tokens = chosen if tokens is None else tokens[chosen]
        if self.config.min_p > 0.0:
            probabilities = probabilities * (probabilities >= self.config.min_p * probabilities.max())
        sums = probabilities.double().cumsum(dim=0)
        point = torch.rand((), dtype=torch.float64, generator=self._generator) * sums[-1]
        # The first sum above the point, so a token without probability is never taken.
        choice = min(int(torch.searchsorted(sums, point, right=True)), len(sums) - 1)
        return choice if tokens is None else int(tokens[choice])


def sample_rows(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Sample one token for each row; greedy rows without penalties together.

    Args:
        logits: [n, v] fp32 on the CPU.
        samplers: of the n texts.
    """
    is_plain = [sampler.config.is_greedy and not sampler.config.has_penalties for sampler in samplers]
    likeliest = logits.argmax(dim=1).tolist() if any(is_plain) else [0] * len(samplers)
    return [
        token if plain else sampler.sample(row)
        for token, plain, sampler, row in zip(likeliest, is_plain, samplers, logits, strict=True)
    ]


def divide(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide logits so that the largest stays finite."""
    divided = logits / temperature
    if divided.max().isinf():
        return (logits - logits.max()) / temperature
    return divided


def _keep_nucleus(probabilities: torch.Tensor, *, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the fewest most likely tokens that reach top_p; return their probabilities and indices, in that order."""
    count = min(NUM_CANDIDATES, len(probabilities))
    while True:
        kept, chosen = probabilities.topk(count)
        sums = kept.cumsum(dim=0)
        if count == len(probabilities) or bool(sums[-1] >= top_p):
            break
        count = len(probabilities)
    # A token is kept if those before it do not reach top_p, so the first always is.
    is_kept = sums - kept < top_p
    is_kept[0] = True  # top_p may be 0 in fp32
    return kept[is_kept], chosen[is_kept]
