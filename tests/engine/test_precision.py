"""16 bits train as fp32 does but for rounding; what is added up over steps and micro batches is fp32."""

import pytest
import torch

from tests.engine.cases import Account
from tests.engine.test_parity import grad_norms_of, largest_difference, losses_of

# name -> largest relative difference of a loss and of a gradient norm, layout from one process and that from fp32.
TOLERANCES = {
    # Measured 5e-4 and 7e-3; bf16 keeps 8 bits, so a single value is off by up to 4e-3 of itself.
    "bf16": (3e-3, 3e-2),
    # Measured 1e-4 and 1.3e-3; fp16 keeps 11 bits: up to 5e-4.
    "fp16": (4e-4, 5e-3),
}
RUNS = [(name, precision) for precision in TOLERANCES for name in (precision, f"megatron {precision}")]
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize(("name", "precision"), RUNS)
def test_a_layout_is_near_one_process_and_both_are_near_fp32(
    name: str, precision: str, one: Account, four: list[Account]
) -> None:
    trained, alone = four[0].trained[name], one.trained[name]
    assert all(rank.trained[name].results == trained.results for rank in four)
    fp32 = one.trained["llama"]
    assert losses_of(alone) != losses_of(fp32)
    loss_tolerance, grad_norm_tolerance = TOLERANCES[precision]
    for what, run, other in (("layout", trained, alone), ("one process", alone, fp32)):
        loss = largest_difference(losses_of(run), losses_of(other))
        grad_norm = largest_difference(grad_norms_of(run), grad_norms_of(other))
        print(f"{name} {what}: loss {loss:.1e}, grad norm {grad_norm:.1e}")
        assert loss <= loss_tolerance
        assert grad_norm <= grad_norm_tolerance


@pytest.mark.parametrize(("name", "precision"), [*RUNS, ("megatron plain bf16", "bf16")])
def test_gradients_are_accumulated_and_weights_and_moments_kept_in_fp32(
    name: str, precision: str, four: list[Account]
) -> None:
    for account in four:
        formats = account.formats[name]
        assert formats.weights == {FORMATS[precision]}
        assert formats.accumulated == {torch.float32}
        assert formats.states == {torch.float32}
        assert formats.is_finer_than_weights
        assert formats.are_weights_rounded_masters


def test_gradients_are_accumulated_in_the_weights_format_where_asked(one: Account) -> None:
    assert one.formats["megatron bf16 sums"].accumulated == {torch.bfloat16}
    assert one.formats["megatron bf16 sums"].states == {torch.float32}
    run, fp32 = one.trained["megatron bf16 sums"], one.trained["llama"]
    assert losses_of(run) != losses_of(one.trained["megatron bf16"])
    assert largest_difference(losses_of(run), losses_of(fp32)) <= TOLERANCES["bf16"][0]
