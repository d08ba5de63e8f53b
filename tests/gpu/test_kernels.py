"""Kernels that only a GPU has: FlexAttention's backward pass, SDPA's back ends, cross entropy in little memory."""

import pytest
import torch
from torch import distributed
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.gpu.devices import needs_gpus, run_on_gpus
from tests.model.test_attention import DOCUMENTS, LENGTH, TOLERANCE, each_document_alone, in_blocks, starts_of
from trainer.model import attention
from trainer.model.cross_entropy import DEVICE_CHUNK_BYTES, vocab_parallel_cross_entropy
from trainer.model.kernels import EAGER, compile_kernels

pytestmark = [pytest.mark.gpu, needs_gpus(1)]

SEQUENCE, VOCABULARY = 8192, 131072


def inputs(dtype: torch.dtype, *, heads: int = 4, groups: int = 2, channels: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, count, LENGTH, channels) for count in (heads, groups, groups)]
    return [torch.randn(shape, generator=generator).to(dtype).cuda() for shape in shapes]


def with_gradients(attend, tensors: list[torch.Tensor]) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = attend(*leaves)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def compare_flex_attention() -> None:
    starts = starts_of(DOCUMENTS, LENGTH).cuda()
    tensors = inputs(torch.float32)
    ours = with_gradients(lambda *parts: in_blocks(*parts, first=0, starts=starts), tensors)
    expected = with_gradients(each_document_alone, tensors)
    assert len(ours) == 4
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=100 * TOLERANCE, atol=100 * TOLERANCE)


def test_compiled_blocks_and_their_gradients() -> None:
    run_on_gpus(compare_flex_attention, 1)


def compare_sdpa() -> list[str]:
    """The names of the kernels that are tried first, after comparing their result with SDPA's definition in fp32."""
    tensors = inputs(torch.bfloat16)
    options = {"is_causal": True, "enable_gqa": True}
    ours = with_gradients(lambda *parts: attention._sdpa(*parts, **options), tensors)
    with sdpa_kernel(SDPBackend.MATH):
        expected = with_gradients(
            lambda *parts: functional.scaled_dot_product_attention(*parts, **options), [t.float() for t in tensors]
        )
    for mine, other in zip(ours, expected, strict=True):
        # bf16 keeps 8 bits, of scores as of results.
        assert (mine.float() - other).norm() < 1e-2 * other.norm()
    return [kernel.name for kernel in attention._sdpa_kernels(tensors[0].device)]


def test_attention_takes_a_fused_kernel() -> None:
    (kernels,) = run_on_gpus(compare_sdpa, 1)
    assert kernels[0] in ("CUDNN_ATTENTION", "FLASH_ATTENTION")
    assert kernels[-1] == "MATH", "what no fused kernel takes is computed all the same"


def measure_cross_entropy() -> dict[str, int]:
    """Bytes at the peak of forward and backward pass, beyond bf16 logits and their gradient."""
    found = {}
    for name, kernels in (("eager", EAGER), ("compiled", compile_kernels("inductor"))):
        for _ in range(2):  # the first call compiles
            logits = torch.randn(SEQUENCE, 1, VOCABULARY, dtype=torch.bfloat16, device="cuda").requires_grad_()
            targets = torch.randint(VOCABULARY, (SEQUENCE, 1), device="cuda")
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            losses = vocab_parallel_cross_entropy(
                logits, targets, group=distributed.group.WORLD, form=kernels.cross_entropy
            )
            losses.sum().backward()
            gradient = logits.numel() * logits.element_size()
            found[name] = torch.cuda.max_memory_allocated() - before - gradient
            del logits, losses
    return found


def test_cross_entropy_makes_no_fp32_copy_of_all_logits() -> None:
    (found,) = run_on_gpus(measure_cross_entropy, 1)
    copy = 4 * SEQUENCE * VOCABULARY
    # A chunk in fp32, what is subtracted from it, and a bf16 part of the gradient.
    assert found["eager"] <= 3 * DEVICE_CHUNK_BYTES < copy / 4
    # A few numbers per token.
    assert found["compiled"] <= 64 * SEQUENCE * 8
