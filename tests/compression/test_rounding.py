"""Integers, scales and offsets are exact where they must be, and error feedback lowers the error of outputs."""

import itertools

import pytest
import torch

from trainer.compression.descent import descend
from trainer.compression.gptq import Hessian, output_error, quantize_with_feedback
from trainer.compression.rounding import choose_scales, choose_scales_and_offsets, quantize_rows, round_to_integers
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


def test_a_group_with_an_outlier_is_clipped_only_where_it_does_not_matter() -> None:
    group = random_weight(1, 32)
    group[0, 5] = 1.0  # 20 standard deviations of the others
    importance = torch.ones(32)
    keeps = round_to_integers(group, choose_scales(group, bits=4, importance=importance)[:, None], bits=4)
    importance[5] = 1e-6
    scale = choose_scales(group, bits=4, importance=importance)
    clipped = round_to_integers(group, scale[:, None], bits=4) * scale
    assert float(scale.abs()) < 1.0 / 8, "the largest weight is beyond the range"
    others = torch.arange(32) != 5
    plain = keeps * choose_scales(group, bits=4)[:, None]
    assert float((clipped - group)[:, others].square().sum()) < float((plain - group)[:, others].square().sum())


def test_offsets_meet_a_weight_of_four_bits_exactly() -> None:
    """As in a file of the type Q4_1: integers of 0 to 15, scale and offset numbers of fp16, both ends in each group."""
    generator = torch.Generator().manual_seed(4)
    integers = torch.randint(0, 16, (40, 4, 32), generator=generator)
    integers[..., 0], integers[..., 1] = 0, 15
    scales = (torch.rand(40, 4, 1, generator=generator) * 0.02 + 0.001).half().float()
    offsets = (torch.randn(40, 4, 1, generator=generator) * 0.1).half().float()
    weight = (integers * scales + offsets).view(40, 128)
    nearest = quantize_rows(weight, bits=4, group_size=32, has_offsets=True)
    assert nearest.offsets is not None
    assert torch.equal(nearest.values.view(40, 4, 32) + 8, integers) and torch.equal(nearest.dequantize(), weight)
    assert torch.equal(nearest.scales[..., None], scales) and torch.equal(nearest.offsets[..., None], offsets)
    fed_back = quantize_with_feedback(weight, correlated(), bits=4, group_size=32, has_offsets=True)
    assert torch.equal(fed_back.dequantize(), weight)
    without = quantize_rows(weight, bits=4, group_size=32)
    assert float((without.dequantize() - weight).abs().max()) > 1e-3


def test_offsets_are_never_worse_than_the_range_of_a_group() -> None:
    groups = random_weight().view(48, 4, 32) + 0.03
    smallest = groups.amin(dim=-1).half().float()
    plain = ((groups.amax(dim=-1) - groups.amin(dim=-1)) / 15).half().float()

    def error(scales: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        values = round_to_integers(groups - (offsets + 8 * scales)[..., None], scales[..., None], bits=4) + 8
        return (values * scales[..., None] + offsets[..., None] - groups).square().sum(dim=-1)

    chosen, range_ = error(*choose_scales_and_offsets(groups)), error(plain, smallest)
    assert bool((chosen <= range_ * (1 + 1e-6)).all()) and float(chosen.sum()) < 0.9 * float(range_.sum())


def test_a_group_of_equal_weights_is_its_offset() -> None:
    quantized = quantize_rows(torch.full((2, 64), 0.5), bits=4, group_size=32, has_offsets=True)
    assert torch.equal(quantized.dequantize(), torch.full((2, 64), 0.5))


def correlated(num_columns: int = 128, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_columns, num_columns, generator=generator) * 0.3 + torch.eye(num_columns)
    hessian = Hessian(num_columns)
    hessian.add(torch.randn(512, num_columns, generator=generator) @ mixing)
    return hessian.matrix


@pytest.mark.parametrize(("bits", "has_offsets"), [(8, False), (4, False), (4, True)])
def test_feedback_lowers_the_error_of_the_outputs(bits: int, has_offsets: bool) -> None:
    weight, hessian = random_weight(), correlated()
    group_size = 32 if bits == 4 else None
    nearest = quantize_rows(weight, bits=bits, group_size=group_size, has_offsets=has_offsets)
    fed_back = quantize_with_feedback(weight, hessian, bits=bits, group_size=group_size, has_offsets=has_offsets)
    assert output_error(weight, fed_back, hessian) < 0.8 * output_error(weight, nearest, hessian)


@pytest.mark.parametrize(("bits", "has_offsets"), [(8, False), (4, False), (4, True)])
def test_descent_only_goes_down(bits: int, has_offsets: bool) -> None:
    weight, hessian = random_weight(), correlated()
    start = quantize_rows(weight, bits=bits, group_size=32, has_offsets=has_offsets)
    errors = [output_error(weight, start, hessian)]
    for _ in range(3):
        start = descend(weight, start, hessian)
        errors.append(output_error(weight, start, hessian))
        stored = start.scales.half() if has_offsets else start.scales.bfloat16()
        assert torch.equal(stored.float(), start.scales)
        assert int(start.values.min()) >= -(2 ** (bits - 1)) and int(start.values.max()) < 2 ** (bits - 1)
    # 1e-6: products are summed in fp32.
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    assert errors[1] < 0.8 * errors[0]


def test_uncorrelated_inputs_need_no_feedback() -> None:
    weight, hessian = random_weight(), torch.eye(128)
    nearest = quantize_rows(weight, bits=4, group_size=32)
    fed_back = quantize_with_feedback(weight, hessian, bits=4, group_size=32)
    # The scales, which were the best of those tried, can still be improved a little.
    found, rounded = (output_error(weight, one, hessian) for one in (fed_back, nearest))
    assert 0.9 * rounded < found <= rounded * (1 + 1e-6)


def test_a_weight_moves_to_meet_the_full_outputs_on_other_inputs() -> None:
    """Inputs that the layers before have scaled and mixed by a known matrix are undone by its inverse."""
    generator = torch.Generator().manual_seed(5)
    weight, full = random_weight(), torch.randn(4096, 128, generator=generator)
    change = torch.eye(128) + 0.02 * torch.randn(128, 128, generator=generator)
    hessian = Hessian(128)
    hessian.add(full @ change, full)
    wanted = weight.double() @ torch.linalg.inv(change.double()).t()
    # A quarter of the way, of which damping takes about 10 %.
    assert float((hessian.move(weight) - weight - 0.25 * (wanted - weight)).norm() / (wanted - weight).norm()) < 0.05
    same = Hessian(128)
    same.add(full, full)
    same.add(full)
    assert torch.equal(same.move(weight), weight)


def test_a_token_with_enormous_inputs_leaves_the_others_their_precision() -> None:
    generator = torch.Generator().manual_seed(6)
    weight, inputs = random_weight(), torch.randn(512, 128, generator=generator)
    inputs[::64, 7] = 1000.0
    usual = torch.arange(512) % 64 != 0
    hessian = Hessian(128)
    hessian.add(inputs)
    errors = []
    for matrix in (hessian.matrix, inputs.t() @ inputs / 512):
        quantized = quantize_with_feedback(weight, matrix, bits=4, group_size=32)
        outputs = (inputs @ (quantized.dequantize() - weight).t()).square().sum(dim=1)
        errors.append(float(outputs[usual].mean()))
        relative = outputs / (inputs @ weight.t()).square().sum(dim=1)
        assert float(relative[~usual].mean()) < float(relative[usual].mean())
    assert errors[0] < 0.9 * errors[1], errors
    empty = Hessian(128)
    empty.add(torch.zeros(4, 128))
    assert not empty.matrix.any()


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
    ("bits", "num_rows", "group_size", "has_kernel", "has_offsets"),
    [
        (8, 48, None, True, False),
        (8, 48, 32, False, False),
        (4, 48, 32, True, False),
        (4, 40, 32, False, False),
        (4, 48, 16, False, False),
        (4, 48, 32, True, True),
        (4, 40, 32, False, True),
    ],
)
def test_products_are_those_of_the_dequantized_weight(
    bits: int, num_rows: int, group_size: int | None, has_kernel: bool, has_offsets: bool, num_tokens: int
) -> None:
    tensor = quantize_rows(random_weight(num_rows), bits=bits, group_size=group_size, has_offsets=has_offsets)
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
