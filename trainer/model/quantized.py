"""Hold weights of linear layers as small integers with scales, and multiply by them.

A weight is value * scale: signed integers of 8 or 4 bits, with one scale for each row or for each group of consecutive
inputs of a row. Scales are numbers that both bf16 and fp16 hold exactly, so that a kernel, a dequantized weight and a
GGUF file have the same weights. With offsets, groups of 4 bits have two numbers of fp16, as the type Q4_1 of GGUF
files: a weight is (value + 8) * scale + offset.

n: outputs, k: inputs, g: groups of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

_MAX_KERNEL_ROWS = 32
"""Rows of input up to which torch's int8 kernel is faster than a dequantized product.

3072 x 576 in bf16, one core of an AMD EPYC, in microseconds: with 1 row 46 (int8) and 58 (int4), a layer of bf16 115;
with 32 rows 776 and 693, dequantized 852; with 128 rows 3,097 and 2,864, dequantized 1,668."""
_INT4_GROUPS = (32, 64, 128, 256)
_INT4_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class QuantizedTensor:
    """Hold a matrix as integers and scales."""

    values: torch.Tensor
    """[n, k] int8, between -128 and 127 or between -8 and 7."""
    scales: torch.Tensor
    """[n, g] fp32, from `round_scales`, or with offsets any numbers of fp16; g divides k."""
    bits: int
    """8 or 4."""
    offsets: torch.Tensor | None = None
    """[n, g] fp32 numbers of fp16, the weights that the integer -8 stands for; None for those of 4 bits where 0 stands
    for 0, and for 8 bits."""

    def dequantize(self) -> torch.Tensor:
        """Return the matrix: [n, k] fp32."""
        num_rows, num_columns = self.values.shape
        grouped = self.values.to(torch.float32).view(num_rows, self.scales.shape[1], -1)
        scales = self.scales.float()[..., None]
        if self.offsets is None:
            return (grouped * scales).view(num_rows, num_columns)
        return ((grouped + 8) * scales + self.offsets.float()[..., None]).view(num_rows, num_columns)

    def rows(self, rows: torch.Tensor) -> "QuantizedTensor":
        """Return these rows: indices, or a mask."""
        offsets = None if self.offsets is None else self.offsets[rows]
        return replace(self, values=self.values[rows], scales=self.scales[rows], offsets=offsets)


def join_rows(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Return the rows of matrices of equal widths, groups and bits in one matrix."""
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return QuantizedTensor(
        values=torch.cat([part.values for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        bits=parts[0].bits,
        offsets=torch.cat(offsets) if offsets else None,
    )


def round_scales(scales: torch.Tensor) -> torch.Tensor:
    """Return the nearest scales that bf16 and fp16 hold exactly, fp32.

    A bf16 number has 8 significant bits, fp16 11, and fewer only below 6.1e-5, where the second rounding leaves at most
    8 of them.
    """
    return scales.to(torch.bfloat16).clamp(-(2.0**15), 2.0**15).to(torch.float16).to(torch.float32)


def pack_int4(values: torch.Tensor) -> torch.Tensor:
    """Pack values between -8 and 7, [n, k] int8, plus 8 into [n, k / 2] uint8: even columns are the lower four bits."""
    shifted = (values + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Return [n, k] int8 between -8 and 7 of `pack_int4`'s [n, k / 2] uint8."""
    values = torch.stack((packed & 15, packed >> 4), dim=-1)
    return values.view(len(packed), -1).to(torch.int8) - 8


class QuantizedWeight:
    """Hold a linear layer's weight for products in bf16 without gradients.

    On a CPU, torch's kernels read the integers themselves where they fit: int8 with one scale a row, int4 with groups
    of 32, 64, 128 or 256 inputs and rows in multiples of 16. Their names in torch are private, so the plain way stays
    beside them: dequantize the weight and multiply, which other shapes and devices take, and long inputs with int8.
    An int4 weight is kept in the kernel's order alone, so that it takes half of the memory of int8.

    Args:
        tensor: [n, k].
        device: where the products are computed.
    """

    def __init__(self, tensor: QuantizedTensor, *, device: torch.device) -> None:
        self._bits = tensor.bits
        self._num_rows, self._num_columns = tensor.values.shape
        num_groups = tensor.scales.shape[1]
        self._group_size = self._num_columns // num_groups
        self._scales = tensor.scales.to(device, torch.bfloat16)
        # What the integer 0 stands for. It is small beside the group's range, so bf16 is fine enough for it.
        zeros = None if tensor.offsets is None else (tensor.offsets + 8 * tensor.scales).to(device, torch.bfloat16)
        self._zeros = zeros
        is_cpu = device.type == "cpu"
        if tensor.bits == 8:
            self.has_kernel = is_cpu and num_groups == 1 and hasattr(torch, "_weight_int8pack_mm")
            self._values = tensor.values.to(device).contiguous()
            return
        has_operator = hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        has_shape = self._group_size in _INT4_GROUPS and self._num_rows % _INT4_ROWS == 0
        self.has_kernel = is_cpu and has_operator and has_shape
        """Whether torch's kernel multiplies, and not the plain way alone."""
        if not self.has_kernel:
            self._values = pack_int4(tensor.values).to(device)
            return
        self._values = torch.ops.aten._convert_weight_to_int4pack_for_cpu(tensor.values.to(torch.int32) + 8, 2)
        scales = self._scales.t()
        # The kernel computes (value - 8) * scale + zero.
        zeros = torch.zeros_like(scales) if zeros is None else zeros.t()
        self._scales, self._zeros = torch.stack((scales, zeros), dim=-1).contiguous(), None

    @property
    def num_bytes(self) -> int:
        """Return the memory of integers, scales and offsets."""
        return self._values.nbytes + self._scales.nbytes + (0 if self._zeros is None else self._zeros.nbytes)

    def multiply(self, input_: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return input_ @ weight.T + bias: [..., k] bf16 to [..., n] bf16."""
        rows = input_.reshape(-1, self._num_columns).contiguous()
        if self.has_kernel and self._bits == 4:
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self._values, self._group_size, self._scales)
        elif self.has_kernel and len(rows) <= _MAX_KERNEL_ROWS:
            product = torch._weight_int8pack_mm(rows, self._values, self._scales[:, 0])
        else:
            product = functional.linear(rows, self._dequantize(rows.dtype))
        result = product.view(*input_.shape[:-1], self._num_rows)
        return result if bias is None else result + bias

    def _dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        values = self._values if self._bits == 8 else unpack_int4(self._values)
        grouped = values.view(self._num_rows, -1, self._group_size).to(dtype)
        weight = grouped * self._scales[..., None].to(dtype)
        if self._zeros is not None:
            weight += self._zeros[..., None].to(dtype)
        return weight.view(self._num_rows, self._num_columns)
