"""Generate tokens with a key-value cache, in one process; sampling by temperature, top-k and top-p."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt.gpt_model import GPTModel

from trireme.errors import EXIT_STOPPED, RunStopped


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Configure how the next token is sampled."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int = 0
    """Sample from this many most likely tokens only; 0 from all."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely tokens whose probabilities reach this sum; 1 from all."""


def sample(logits: torch.Tensor, *, config: SamplingConfig, generator: torch.Generator) -> int:
    """Sample one token.

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
    # A token is kept if those before it do not reach top_p, so the first always is.
    is_kept = probabilities.cumsum(dim=0) - probabilities < config.top_p
    is_kept[0] = True  # top_p may be 0 in fp32
    choice = torch.multinomial(probabilities * is_kept, num_samples=1, generator=generator)
    return int(tokens[choice])


def _divide(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide logits so that the largest stays finite."""
    divided = logits / temperature
    if divided.max().isinf():
        return (logits - logits.max()) / temperature
    return divided


class CachedDecoder:
    """Feed tokens to a model with a key-value cache, so that a new token costs one position.

    Args:
        model: the whole model, in evaluation mode.
        max_length: number of positions in the cache; the model's seq_length.
    """

    def __init__(self, model: GPTModel, *, max_length: int, device: torch.device) -> None:
        assert not model.training
        self._model, self._max_length, self._device = model, max_length, device
        self._context = StaticInferenceContext(max_batch_size=1, max_sequence_length=max_length)

    @property
    def num_cached(self) -> int:
        """Number of positions in the cache."""
        return int(self._context.sequence_len_offset)

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append tokens: any number at the start, then one at a time.

        Returns:
            [v]: the logits after the last of them.
        """
        assert self.num_cached == 0 or len(tokens) == 1
        assert self.num_cached + len(tokens) <= self._max_length
        first = self.num_cached
        positions = torch.arange(first, first + len(tokens), device=self._device)[None]
        ids = torch.tensor([list(tokens)], dtype=torch.int64, device=self._device)
        if first:
            self._context.enable_decode_mode()
        logits = self._model(ids, positions, None, inference_context=self._context, runtime_gather_output=True)
        self._context.sequence_len_offset = first + len(tokens)
        return logits[0, -1]

    def reset(self) -> None:
        """Clear the cache."""
        self._context.reset()


def generate_tokens(
    model: GPTModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    max_length: int,
    sampling: SamplingConfig,
    vocab_size: int,
    eos_id: int | None,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[int]:
    """Yield tokens that continue a prompt, until eos_id (which is not yielded) or max_new_tokens.

    When the cache is full, the latest half of its tokens becomes the prompt of a new cache, so a text may be longer
    than the model's context.

    Args:
        prompt: at least one token.
        vocab_size: tokens of the vocabulary; padding rows of the embedding are never sampled.
        generator: of the CPU.
    Raises:
        RunStopped: the model's logits are not finite.
    """
    decoder = CachedDecoder(model, max_length=max_length, device=device)
    history = list(prompt)
    logits = decoder.feed(history[-max_length:])
    for _ in range(max_new_tokens):
        _check_finite(logits[:vocab_size], position=len(history))
        token = sample(logits[:vocab_size], config=sampling, generator=generator)
        if token == eos_id:
            return
        yield token
        history.append(token)
        if decoder.num_cached == max_length:
            decoder.reset()
            logits = decoder.feed(history[-max(1, max_length // 2) :])
        else:
            logits = decoder.feed([token])


def _check_finite(logits: torch.Tensor, *, position: int) -> None:
    if not bool(logits.isfinite().all()):
        kind = "NaN" if bool(logits.isnan().any()) else "infinity"
        message = f"The model's logits contain {kind} at token {position}. Its weights are too large, or damaged."
        raise RunStopped(message, exit_code=EXIT_STOPPED)
