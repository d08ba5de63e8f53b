"""Integers and scales are exact where they must be, and error feedback lowers the error of a layer's outputs."""

import pytest
import torch

from trainer.compression.gptq import Hessian, output_error, quantize_with_feedback
from trainer.compression.rounding import choose_scales, quantize_rows, round_to_integers
from trainer.model.quantized import QuantizedTensor, QuantizedWeight, pack_int4, round_scales, unpack_int4


def random_weight(num_rows: int = 48, num_columns: int = 128) -> torch.Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0)) * 0.05


def test_all_pairs_of_integers_survive_packing() -> None:
    values = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8)
    packed = pack_int4(values)
    assert packed.shape == (256, 1) and packed.unique().numel() == 256
    assert torch.equal(unpack_int4(packed), values)


def test_scales_are_the_same_number_in_bf16_and_fp16() -> None:
    # From below fp16's smallest number (6e-8) over its subnormal ones (below 6.1e-5) to its largest (65504).
    scales = round_scales(torch.logspace(-9, 5, 20001) * torch.tensor([1.0, -1.0]).repeat(10001)[:20001])
    assert torch.equal(scales.to(torch.bfloat16).float(), scales)
    assert torch.equal(scales.to(torch.float16).float(), scales)
    assert bool(scales.isfinite().all())


def test_eight_bits_are_within_half_a_step() -> None:
    weight = random_weight()
    quantized = quantize_rows(weight, bits=8, group_size=None)
    # The scale is rounded to 8 significant bits, so the largest weight may be clipped by 127 / 256 of a step more.
    assert bool(((quantized.dequantize() - weight).abs() <= quantized.scales * (0.5 + 127 / 256)).all())


def test_four_bits_are_better_than_the_largest_weight_as_scale() -> None:
    groups = random_weight().view(48, 4, 32)
    chosen = choose_scales(groups, bits=4)
    plain = round_scales(groups.abs().amax(dim=-1) / 7)

    def error(scales: torch.Tensor) -> torch.Tensor:
        values = round_to_integers(groups, scales[..., None], bits=4)
        return (values * scales[..., None] - groups).square().sum(dim=-1)

    # The plain scale is not among those that are tried, but one within half a percent of it is.
    assert float(error(chosen).sum()) < 0.9 * float(error(plain).sum())


def test_zeros_stay_zeros() -> None:
    for bits in (8, 4):
        assert not quantize_rows(torch.zeros(2, 64), bits=bits, group_size=32).dequantize().any()


@pytest.mark.parametrize("bits", [8, 4])
def test_feedback_lowers_the_error_of_the_outputs(bits: int) -> None:
    weight = random_weight()
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(128, 128, generator=generator) * 0.3 + torch.eye(128)
    hessian = Hessian(128)
    hessian.add(torch.randn(512, 128, generator=generator) @ mixing)
    group_size = 32 if bits == 4 else None
    nearest = quantize_rows(weight, bits=bits, group_size=group_size)
    fed_back = quantize_with_feedback(weight, hessian.matrix, bits=bits, group_size=group_size)
    assert output_error(weight, fed_back, hessian.matrix) < 0.8 * output_error(weight, nearest, hessian.matrix)


def test_uncorrelated_inputs_need_no_feedback() -> None:
    weight = random_weight()
    nearest = quantize_rows(weight, bits=4, group_size=32)
    fed_back = quantize_with_feedback(weight, torch.eye(128), bits=4, group_size=32)
    assert torch.equal(fed_back.values, nearest.values) and torch.equal(fed_back.scales, nearest.scales)


def test_inputs_that_were_always_zero_are_allowed() -> None:
    hessian = Hessian(128)
    inputs = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    inputs[:, 32:64] = 0
    hessian.add(inputs)
    quantized = quantize_with_feedback(random_weight(), hessian.matrix, bits=4, group_size=32)
    # Half of a step of the coarsest scale that is tried, 1.05 / 7 of the largest weight.
    assert float((quantized.dequantize() - random_weight())[:, 32:64].abs().max()) < 0.2 * float(random_weight().max())


@pytest.mark.parametrize("num_tokens", [1, 5, 100])
@pytest.mark.parametrize(
    ("bits", "num_rows", "group_size", "has_kernel"),
    [(8, 48, None, True), (8, 48, 32, False), (4, 48, 32, True), (4, 40, 32, False), (4, 48, 16, False)],
)
def test_products_are_those_of_the_dequantized_weight(
    bits: int, num_rows: int, group_size: int | None, has_kernel: bool, num_tokens: int
) -> None:
    tensor = quantize_rows(random_weight(num_rows), bits=bits, group_size=group_size)
    weight = QuantizedWeight(tensor, device=torch.device("cpu"))
    assert weight.has_kernel == has_kernel, "else the test would not see torch's kernel"
    inputs = torch.randn(num_tokens, 1, 128, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    bias = torch.ones(num_rows, dtype=torch.bfloat16)
    expected = inputs.double() @ tensor.dequantize().double().t() + 1
    found = weight.multiply(inputs, bias)
    assert found.dtype is torch.bfloat16 and found.shape == (num_tokens, 1, num_rows)
    # bf16 rounds product and sum by 2^-9 each; the dequantized weight too, as any weight in bf16.
    limit = 4 * 2**-9 * float(expected.abs().max())
    assert float((found.double() - expected).abs().max()) < limit


def test_memory_is_that_of_the_integers() -> None:
    tensor = quantize_rows(random_weight(), bits=4, group_size=32)
    weight = QuantizedWeight(tensor, device=torch.device("cpu"))
    # Half a byte a weight, and scale and zero of each group in bf16.
    assert weight.num_bytes == 48 * 128 // 2 + 48 * 4 * 4
    whole = QuantizedWeight(
        QuantizedTensor(values=tensor.values, scales=tensor.scales[:, :1], bits=8), device=torch.device("cpu")
    )
    assert whole.num_bytes == 48 * 128 + 48 * 2
