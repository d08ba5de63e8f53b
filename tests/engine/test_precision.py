"""bf16 trains as fp32 does but for rounding; what is added up over steps and micro batches is fp32."""

import torch

from tests.engine.cases import Account
from tests.engine.test_parity import grad_norms_of, largest_difference, losses_of

LOSS_TOLERANCE = 3e-3
"""Measured 4e-4; bf16 keeps 8 bits, so a single value is off by up to 4e-3 of itself."""
GRAD_NORM_TOLERANCE = 3e-2
"""Measured 4e-3."""


def test_bf16_under_a_layout_is_near_one_process_and_both_are_near_fp32(one: Account, four: list[Account]) -> None:
    trained, alone = four[0].trained["bf16"], one.trained["bf16"]
    assert all(rank.trained["bf16"].results == trained.results for rank in four)
    fp32 = one.trained["llama"]
    assert losses_of(alone) != losses_of(fp32)
    for name, run, other in (("layout", trained, alone), ("one process", alone, fp32)):
        loss = largest_difference(losses_of(run), losses_of(other))
        grad_norm = largest_difference(grad_norms_of(run), grad_norms_of(other))
        print(f"bf16 {name}: loss {loss:.1e}, grad norm {grad_norm:.1e}")
        assert loss <= LOSS_TOLERANCE
        assert grad_norm <= GRAD_NORM_TOLERANCE


def test_bf16_accumulates_gradients_and_keeps_weights_and_moments_in_fp32(four: list[Account]) -> None:
    for account in four:
        formats = account.formats
        assert formats is not None
        assert formats.weights == {torch.bfloat16}
        assert formats.accumulated == {torch.float32}
        assert formats.states == {torch.float32}
        assert formats.is_finer_than_weights
        assert formats.are_weights_rounded_masters
