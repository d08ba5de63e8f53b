"""From logits to the next token: temperature, top-k, top-p. v: vocabulary."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int = 0
    """Draw from this many most likely tokens only; 0 from all."""
    top_p: float = 1.0
    """Draw from the fewest most likely tokens whose probabilities reach this sum; 1 from all."""


def sample(logits: torch.Tensor, *, config: SamplingConfig, generator: torch.Generator) -> int:
    """Draw one token.

    Args:
        logits: [v], any float type.
        generator: of the CPU; equal states give equal tokens on every device.
    Source: top-k Fan et al. 2018 (arXiv:1805.04833), top-p Holtzman et al. 2019 (arXiv:1904.09751).
    """
    if config.temperature == 0.0:
        return int(logits.argmax())
    scores, tokens = (logits.float().cpu() / config.temperature).sort(descending=True, stable=True)
    if config.top_k > 0:
        scores, tokens = scores[: config.top_k], tokens[: config.top_k]
    probabilities = scores.softmax(dim=0)
    # A token stays while those before it do not reach top_p yet, so the first always does.
    is_kept = probabilities.cumsum(dim=0) - probabilities < config.top_p
    choice = torch.multinomial(probabilities * is_kept, num_samples=1, generator=generator)
    return int(tokens[choice])
