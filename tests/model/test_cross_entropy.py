"""Cross entropy over a shared vocabulary against torch's own, on one rank and on two."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import distributed
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from tests.distributed.harness import run_distributed
from trainer.model import cross_entropy
from trainer.model.cross_entropy import vocab_parallel_cross_entropy

SEQUENCE, BATCH, VOCABULARY = 7, 3, 40
TOKENS, WIDE_VOCABULARY = 512, 16000


def compare(dtype: torch.dtype, offset: float, *, vocab_size: int = VOCABULARY) -> None:
    """Loss and gradient of this rank's columns, with several chunks, and logits far from zero."""
    cross_entropy.CHUNK_BYTES = 4 * VOCABULARY * 4
    rank, size = distributed.get_rank(), distributed.get_world_size()
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(SEQUENCE, BATCH, VOCABULARY, generator=generator) * 5 + offset).to(dtype)
    targets = torch.randint(0, vocab_size, (SEQUENCE, BATCH), generator=generator)
    weights = torch.rand(SEQUENCE, BATCH, generator=generator)
    whole = logits.float().clone().requires_grad_()
    real = whole[..., :vocab_size].reshape(-1, vocab_size)
    expected = functional.cross_entropy(real, targets.view(-1), reduction="none")
    (expected * weights.view(-1)).sum().backward()
    assert whole.grad is not None
    part = slice(rank * VOCABULARY // size, (rank + 1) * VOCABULARY // size)
    local = logits[..., part].clone().requires_grad_()
    losses = vocab_parallel_cross_entropy(local, targets, group=distributed.group.WORLD, vocab_size=vocab_size)
    (losses * weights).sum().backward()
    assert losses.dtype is torch.float32 and local.grad is not None
    torch.testing.assert_close(losses.view(-1), expected, rtol=1e-5, atol=1e-5)
    # The gradient is rounded once to the format of the logits.
    tolerance = 1e-6 if dtype is torch.float32 else 4e-3
    torch.testing.assert_close(local.grad.float(), whole.grad[..., part], rtol=tolerance, atol=tolerance)


def compare_all() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        compare(dtype, 0.0)
    compare(torch.float32, 300.0)
    compare(torch.float32, -300.0)
    # Columns that only make shares equal: a few of the last rank's; all of it and some of the first one's. Their logits
    # are far above those of tokens, as rows of zeros are in a model whose logits are low.
    for vocab_size in (37, 17):
        for dtype in (torch.float32, torch.bfloat16):
            compare(dtype, -35.0, vocab_size=vocab_size)


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_is_torchs_cross_entropy(world_size: int) -> None:
    run_distributed(compare_all, world_size)


def peak_bytes(loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> int:
    """Most that forward and backward pass hold at once, beyond bf16 logits; torch's own count of every allocation."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(TOKENS, 1, WIDE_VOCABULARY, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(WIDE_VOCABULARY, (TOKENS, 1), generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss_of(logits, targets).sum().backward()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held)


def measure() -> dict[str, int]:
    group = distributed.group.WORLD
    return {
        "ours": peak_bytes(lambda logits, targets: vocab_parallel_cross_entropy(logits, targets, group=group)),
        "torch": peak_bytes(lambda logits, targets: functional.cross_entropy(logits[:, 0].float(), targets[:, 0])),
    }


def test_no_fp32_copy_of_all_logits_is_made() -> None:
    (found,) = run_distributed(measure, 1)
    gradient = 2 * TOKENS * WIDE_VOCABULARY
    print({name: round(peak / gradient, 2) for name, peak in found.items()})
    # The gradient of the logits in their own format, a chunk or two in fp32, and some numbers per token.
    assert gradient <= found["ours"] <= gradient + 3 * cross_entropy.CHUNK_BYTES + 64 * TOKENS
    # torch's, which is given fp32 of all of them, shows that the count sees it: logits, softmax, both gradients.
    assert found["torch"] >= 4 * gradient
