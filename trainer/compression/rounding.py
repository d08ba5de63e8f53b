"""Round matrices to integers of 8 or 4 bits with one scale for each group of a row.

n: rows, k: columns, g: groups of a row.
"""

import torch

from trainer.model.quantized import QuantizedTensor, round_scales

_CANDIDATES = torch.linspace(0.6, 1.05, 19)
"""Shares of a group's largest weight that the largest integer may stand for: clipping a few leaves the others finer."""
_ELEMENTS = 2**22


def quantize_rows(weight: torch.Tensor, *, bits: int, group_size: int | None) -> QuantizedTensor:
    """Round a matrix to the nearest integers.

    Args:
        weight: [n, k] fp32.
        bits: 8 or 4.
        group_size: columns that share a scale, a divisor of k; None for whole rows.
    """
    num_rows, num_columns = weight.shape
    size = group_size or num_columns
    values = torch.empty(num_rows, num_columns, dtype=torch.int8)
    scales = torch.empty(num_rows, num_columns // size)
    step = max(1, _ELEMENTS // num_columns)
    for first in range(0, num_rows, step):
        groups = weight[first : first + step].float().view(-1, num_columns // size, size)
        chosen = choose_scales(groups, bits=bits)
        scales[first : first + step] = chosen
        values[first : first + step] = round_to_integers(groups, chosen[..., None], bits=bits).view(-1, num_columns)
    return QuantizedTensor(values=values, scales=scales, bits=bits)


def choose_scales(groups: torch.Tensor, *, bits: int, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Choose the scale of each group: for 8 bits by its largest weight, for 4 bits with the least square error.

    With 4 bits, the range -8 to 7 is tried in both directions, so a scale may be negative.

    Args:
        groups: [..., size] fp32.
        importance: [..., size] weights of the errors; None for equal ones.
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


def round_to_integers(values: torch.Tensor, scales: torch.Tensor, *, bits: int) -> torch.Tensor:
    """Return the nearest integers of values / scales within the range of the bits, in the data type of `values`."""
    limit = 2 ** (bits - 1)
    inverse = torch.where(scales == 0, torch.zeros_like(scales), 1 / scales)
    return (values * inverse).round_().clamp_(-limit, limit - 1)
