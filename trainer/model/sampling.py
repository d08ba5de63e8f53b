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
    logits = logits.float().cpu()
    # A divisor below the normal range of fp32 would count as 0.
    if config.temperature < torch.finfo(torch.float32).tiny:
        return int(logits.argmax())
    scores, tokens = _divide(logits, config.temperature).sort(descending=True, stable=True)
    if config.top_k > 0:
        num_kept = min(config.top_k, len(scores))
        scores, tokens = scores[:num_kept], tokens[:num_kept]
    probabilities = scores.softmax(dim=0)
    # A token stays while those before it do not reach top_p yet, so the first always does.
    is_kept = probabilities.cumsum(dim=0) - probabilities < config.top_p
    is_kept[0] = True  # top_p may be 0 in fp32
    choice = torch.multinomial(probabilities * is_kept, num_samples=1, generator=generator)
    return int(tokens[choice])


def _divide(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide logits so that the largest stays a number."""
    divided = logits / temperature
    if divided.max().isinf():
        return (logits - logits.max()) / temperature
    return divided
