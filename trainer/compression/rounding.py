"""Round matrices to integers of 8 or 4 bits with one scale, or a scale and an offset, for each group of a row.

n: rows, k: columns, g: groups of a row.
"""

import torch

from trainer.model.quantized import QuantizedTensor, join_rows, round_scales

_CANDIDATES = torch.linspace(0.6, 1.05, 19)
"""Shares of a group's largest weight that the largest integer may stand for: clipping a few leaves the others finer."""
_ELEMENTS = 2**22


def quantize_rows(
    weight: torch.Tensor,
    *,
    bits: int,
    group_size: int | None,
    has_offsets: bool = False,
    importance: torch.Tensor | None = None,
) -> QuantizedTensor:
    """Round a matrix to the nearest integers.

    Args:
        weight: [n, k] fp32.
        bits: 8 or 4.
        group_size: columns that share a scale, a divisor of k; None for whole rows.
        has_offsets: whether groups of 4 bits have an offset too.
        importance: [k] weights of the columns' errors, by which scales of 4 bits are chosen; None for equal ones.
    """
    num_rows, num_columns = weight.shape
    size = group_size or num_columns
    parts = []
    step = max(1, _ELEMENTS // num_columns)
    for first in range(0, num_rows, step):
        groups = weight[first : first + step].float().view(-1, num_columns // size, size)
        shares = None if importance is None else importance.view(-1, size)
        if has_offsets and bits == 4:
            scales, offsets = choose_scales_and_offsets(groups, importance=shares)
            shifted = groups - (offsets + 8 * scales)[..., None]
        else:
            scales, offsets, shifted = choose_scales(groups, bits=bits, importance=shares), None, groups
        values = round_to_integers(shifted, scales[..., None], bits=bits).view(-1, num_columns).to(torch.int8)
        parts.append(QuantizedTensor(values=values, scales=scales, bits=bits, offsets=offsets))
    return join_rows(parts)


def choose_scales(groups: torch.Tensor, *, bits: int, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Choose the scale of each group: for 8 bits by its largest weight, for 4 bits with the least square error.

    With 4 bits, the range -8 to 7 is tried in both directions, so a scale may be negative.

    Args:
        groups: [..., size] fp32.
        importance: weights of the errors, of a shape that broadcasts to [..., size]; None for equal ones.
    Returns:
        [...] fp32, from `round_scales`; 0 for a group of zeros.
    """
    largest = groups.abs().amax(dim=-1)
    if bits == 8:
        return round_scales(largest / 127)
    peak = torch.gather(groups, -1, groups.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for share in _CANDIDATES:
        for scale in (largest * share / 7, peak * share / -8):
            scales = round_scales(scale)
            errors = (round_to_integers(groups, scales[..., None], bits=bits) * scales[..., None] - groups).square()
            error = (errors if importance is None else errors * importance).sum(dim=-1)
            is_better = error < least
            best, least = torch.where(is_better, scales, best), torch.where(is_better, error, least)
    return best


def choose_scales_and_offsets(
    groups: torch.Tensor, *, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the scale and the offset of each group for 4 bits, with the least square error.

    Each candidate gives integers, for which the best pair is that of a linear regression; the idea is that of
    llama.cpp's make_qkx2_quants. A group that has had 4 bits with the numbers of fp16 before, and has its largest and
    its smallest weight, is met exactly.

    Args:
        groups: [..., size] fp32.
        importance: weights of the errors, of a shape that broadcasts to [..., size]; None for equal ones.
    Returns:
        Scales, not negative, and offsets: [...] fp32 numbers of fp16.
    """
    smallest, largest = groups.amin(dim=-1), groups.amax(dim=-1)
    center, width = (smallest + largest) / 2, largest - smallest
    shares = torch.ones_like(groups) if importance is None else importance.expand_as(groups)
    total = shares.sum(dim=-1)
    mean = (shares * groups).sum(dim=-1) / total
    best = [torch.zeros_like(center), torch.zeros_like(center), torch.full_like(center, torch.inf)]

    def try_pair(scales: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        scales, offsets = to_fp16(scales), to_fp16(offsets)
        middle = offsets + 8 * scales
        values = round_to_integers(groups - middle[..., None], scales[..., None], bits=4) + 8
        errors = values * scales[..., None] + offsets[..., None] - groups
        error = (shares * errors.square()).sum(dim=-1)
        is_better = error < best[2]
        for index, one in enumerate((scales, offsets, error)):
            best[index] = torch.where(is_better, one, best[index])
        return values

    for share in (1.0, *_CANDIDATES.tolist()):
        values = try_pair(width * share / 15, smallest if share == 1.0 else center - width * share / 2)
        middle = (shares * values).sum(dim=-1) / total
        distances = values - middle[..., None]
        variance = (shares * distances.square()).sum(dim=-1)
        slope = (shares * distances * (groups - mean[..., None])).sum(dim=-1) / variance.clamp(min=1e-12)
        try_pair(slope, mean - slope * middle)
    return best[0], best[1]


def to_fp16(numbers: torch.Tensor) -> torch.Tensor:
    """Return the nearest numbers of fp16 without infinity, fp32."""
    return numbers.clamp(-65504, 65504).to(torch.float16).to(torch.float32)


def round_to_integers(values: torch.Tensor, scales: torch.Tensor, *, bits: int) -> torch.Tensor:
    """Return the nearest integers of values / scales within the range of the bits, in the data type of `values`."""
    limit = 2 ** (bits - 1)
    inverse = torch.where(scales == 0, torch.zeros_like(scales), 1 / scales)
    return (values * inverse).round_().clamp_(-limit, limit - 1)
