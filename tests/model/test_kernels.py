"""Our forms of SwiGLU, rotary embedding and splitting against the plain ones, forward and backward."""

from collections.abc import Callable

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from megatron.core.models.common.embeddings import rope_utils  # noqa: E402
from torch.nn import functional  # noqa: E402

from trainer.model.activation import swiglu  # noqa: E402
from trainer.model.rotary import apply_rotary, fill_fused_rotary_slot  # noqa: E402
from trainer.model.split import split_along_dim  # noqa: E402

# fp32: the order of two roundings may differ. bf16: half a unit in the last place of values below 8, times two.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-2}


def plain_swiglu(values: torch.Tensor) -> torch.Tensor:
    gate, up = values.chunk(2, dim=-1)
    return functional.silu(gate) * up


def check(
    ours: Callable[[torch.Tensor], torch.Tensor],
    plain: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=generator).to(dtype)
    results = []
    for function in (ours, plain):
        leaf = values.clone().requires_grad_()
        output = function(leaf)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(dtype))
        assert leaf.grad is not None
        results.append((output.detach().float(), leaf.grad.float()))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu(dtype: torch.dtype) -> None:
    check(swiglu, plain_swiglu, (5, 3, 48), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_is_megatron_cores(dtype: torch.dtype) -> None:
    angles = torch.arange(7.0)[:, None] / 10_000 ** (torch.arange(0, 16, 2) / 16)
    frequencies = torch.cat([angles, angles], dim=-1)[:, None, None, :]
    check(
        lambda heads: apply_rotary(heads, frequencies),
        lambda heads: rope_utils._apply_rotary_pos_emb_bshd(heads, frequencies),
        (7, 2, 3, 16),
        dtype,
    )


def test_rotary_keeps_lengths_and_depends_on_distance_only() -> None:
    angles = torch.arange(9.0)[:, None] / 10_000 ** (torch.arange(0, 8, 2) / 8)
    frequencies = torch.cat([angles, angles], dim=-1)[:, None, None, :]
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    queries, keys = (apply_rotary(x.expand(9, 1, 1, 8), frequencies)[:, 0, 0] for x in (query, key))
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(9))
    scores = queries @ keys.T
    torch.testing.assert_close(scores[3, 1], scores[8, 6])
    assert abs(scores[3, 1] - scores[3, 2]) > 1e-3


def test_rotary_takes_the_slot_that_is_free() -> None:
    fill_fused_rotary_slot()
    assert rope_utils.fused_apply_rotary_pos_emb is apply_rotary
    fill_fused_rotary_slot()
    assert rope_utils.fused_apply_rotary_pos_emb is apply_rotary


def test_split() -> None:
    def joined(split: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(values: torch.Tensor) -> torch.Tensor:
            first, second, third = split(values, [8, 4, 4])
            return first[..., :4] * second + third.square()

        return call

    check(
        joined(lambda values, sizes: split_along_dim(values, 3, sizes)),
        joined(lambda values, sizes: torch.split(values, sizes, dim=3)),
        (5, 2, 3, 16),
        torch.float32,
    )
