"""Quantize a linear layer so that its outputs on calibration inputs change least (GPTQ).

Source: Frantar et al. 2022, GPTQ (arXiv:2210.17323), algorithm 1, with columns in order of their importance
(`act_order` of the authors' program) and scales chosen before, so that groups stay consecutive columns.

n: outputs, k: inputs, g: groups of a row.
"""

import logging

import torch

from trainer.compression.rounding import choose_scales, round_to_integers
from trainer.model.quantized import QuantizedTensor

_BLOCK = 128
_DAMPING = 0.01
"""Share of the mean of the Hessian's diagonal that is added to it, as in the paper."""
_MAX_DAMPING = 10.0
_LOGGER = logging.getLogger(__name__)


class Hessian:
    """Sum the products of a layer's inputs, x x^T, over calibration tokens.

    Args:
        num_inputs: k.
    """

    def __init__(self, num_inputs: int) -> None:
        self.matrix = torch.zeros(num_inputs, num_inputs)
        """[k, k] fp32."""
        self.num_tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Add inputs, [..., k]."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).float().to(self.matrix.device)
        self.matrix.addmm_(rows.t(), rows)
        self.num_tokens += len(rows)


def quantize_with_feedback(
    weight: torch.Tensor, hessian: torch.Tensor, *, bits: int, group_size: int | None
) -> QuantizedTensor:
    """Round a weight column by column; later columns make up for the errors of earlier ones.

    Args:
        weight: [n, k] fp32.
        hessian: [k, k], see `Hessian`.
        bits: 8 or 4.
        group_size: inputs that share a scale; None for whole rows.
    """
    num_rows, num_columns = weight.shape
    size = group_size or num_columns
    diagonal = hessian.diagonal().clone()
    # An input that was always 0 does not matter: its column is rounded on its own.
    diagonal[diagonal == 0] = diagonal.mean().clamp(min=1e-12)
    importance = diagonal.view(1, -1, size).expand(num_rows, -1, -1)
    groups = weight.float().view(num_rows, -1, size)
    scales = choose_scales(groups, bits=bits, importance=importance)
    order = diagonal.argsort(descending=True)
    inverse = _inverse_factor(hessian[order][:, order], diagonal[order])
    rest = weight.float()[:, order].clone()
    column_scales = scales.repeat_interleave(size, dim=1)[:, order]
    values = torch.empty_like(rest)
    for start in range(0, num_columns, _BLOCK):
        end = min(start + _BLOCK, num_columns)
        errors = torch.empty(num_rows, end - start)
        for column in range(start, end):
            scale = column_scales[:, column]
            values[:, column] = round_to_integers(rest[:, column], scale, bits=bits)
            error = (rest[:, column] - values[:, column] * scale) / inverse[column, column]
            rest[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - start] = error
        rest[:, end:] -= errors @ inverse[start:end, end:]
    unordered = torch.empty_like(values)
    unordered[:, order] = values
    return QuantizedTensor(values=unordered.to(torch.int8), scales=scales, bits=bits)


def output_error(weight: torch.Tensor, quantized: QuantizedTensor, hessian: torch.Tensor) -> float:
    """Return the squared error of the outputs on the calibration tokens, summed over outputs and tokens."""
    difference = quantized.dequantize() - weight.float()
    return float(((difference @ hessian) * difference).sum())


def _inverse_factor(hessian: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the damped Hessian's inverse, [k, k]."""
    damping = _DAMPING
    while True:
        damped = hessian.clone()
        damped.diagonal().copy_(diagonal + damping * diagonal.mean())
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
        if not failed:
            return upper
        assert damping < _MAX_DAMPING, "a Gram matrix with such damping is positive definite"
        damping *= 10
        _LOGGER.info("The Hessian is not positive definite in fp32; its damping is raised to %g.", damping)
