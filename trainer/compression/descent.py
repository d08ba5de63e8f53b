"""Lower the error of a quantized layer's outputs by changing its integers, scales and offsets one at a time.

Every change is the best one for the squared error while all others stay, and is made only if it lowers the error:
coordinate descent, for integers as in Behdin et al. 2023, QuantEase (arXiv:2309.01885), in blocks of columns; for the
scale and the offset of a group the same, rounded to the numbers that are stored.

n: outputs, k: inputs, g: groups of a row.
"""

from collections.abc import Callable

import torch

from trainer.compression.rounding import round_to_integers, to_fp16
from trainer.model.quantized import QuantizedTensor, round_scales

_ROUNDS = 2
"""On SmolLM2-135M with 4 bits, the first lowers the error on other rows by 6 %, the second by 1.2, the third by 0.6."""
_BLOCK = 64


def descend(weight: torch.Tensor, start: QuantizedTensor, hessian: torch.Tensor) -> QuantizedTensor:
    """Return a quantized weight whose outputs are closer to those of the weight, or as close.

    Args:
        weight: [n, k] fp32.
        start: the weight quantized in another way.
        hessian: [k, k] fp32, positive definite, such as a damped mean of x x^T over inputs x.
    """
    state = _State(weight, start, hessian)
    for _ in range(_ROUNDS):
        state.improve_groups()
        state.improve_integers()
    state.improve_groups()
    return state.result()


class _State:
    """Hold the numbers of a weight, and the gradient of half of the squared error by it."""

    def __init__(self, weight: torch.Tensor, start: QuantizedTensor, hessian: torch.Tensor) -> None:
        self._bits, self._hessian = start.bits, hessian
        self._values = start.values.float()
        self._scales = start.scales.clone()
        self._offsets = None if start.offsets is None else start.offsets.clone()
        self._size = weight.shape[1] // start.scales.shape[1]
        self._gradient = (start.dequantize() - weight) @ hessian

    def result(self) -> QuantizedTensor:
        values = self._values.to(torch.int8)
        return QuantizedTensor(values=values, scales=self._scales, bits=self._bits, offsets=self._offsets)

    def improve_groups(self) -> None:
        """Change the scale and the offset of each group."""
        for group in range(self._scales.shape[1]):
            columns = slice(group * self._size, (group + 1) * self._size)
            values = self._values[:, columns]
            if self._offsets is None:
                self._move(self._scales[:, group], values, columns, rounding=round_scales)
            else:
                self._move(self._offsets[:, group], torch.ones_like(values), columns, rounding=to_fp16)
                self._move(self._scales[:, group], values + 8, columns, rounding=to_fp16)

    def _move(
        self,
        numbers: torch.Tensor,
        direction: torch.Tensor,
        columns: slice,
        *,
        rounding: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Change numbers [n], by each of which the weights of its row change in a direction, [n, size]."""
        slope = (direction * self._gradient[:, columns]).sum(dim=1)
        curvature = ((direction @ self._hessian[columns, columns]) * direction).sum(dim=1)
        step = rounding(numbers - slope / curvature.clamp(min=1e-30)) - numbers
        step = torch.where(step * (2 * slope + step * curvature) < 0, step, torch.zeros_like(step))
        numbers += step
        self._gradient += (step[:, None] * direction) @ self._hessian[columns]

    def improve_integers(self) -> None:
        """Change the integer of each column, from the left to the right."""
        num_columns = self._values.shape[1]
        diagonal = self._hessian.diagonal()
        for start in range(0, num_columns, _BLOCK):
            end = min(start + _BLOCK, num_columns)
            hessian, gradient = self._hessian[start:end, start:end], self._gradient[:, start:end].clone()
            changes = torch.empty_like(gradient)
            for column in range(start, end):
                index, scale = column - start, self._scales[:, column // self._size]
                old = self._values[:, column]
                # The best number is rounded to the nearest integer of the range, which is then the best of them.
                new = round_to_integers(old * scale - gradient[:, index] / diagonal[column], scale, bits=self._bits)
                changes[:, index] = (new - old) * scale
                gradient += changes[:, index, None] * hessian[index]
                self._values[:, column] = new
            self._gradient += changes @ self._hessian[start:end]
