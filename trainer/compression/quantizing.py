"""Quantize a checkpoint's weights, layer by layer, and write them as a run that inference loads.

b: calibration rows, s: tokens of a row.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from trainer.checkpoint.quantized import stored_name
from trainer.compression.calibration import calibrate, linear_layers
from trainer.compression.gptq import Hessian, output_error, quantize_with_feedback
from trainer.compression.rounding import quantize_rows
from trainer.model.gpt import GPT
from trainer.model.quantized import QuantizedTensor
from trainer.model.sharding import ShardedParameter, describe_buffers, describe_parameters

TABLE_GROUP_SIZE = 32
TABLES = ("embedding.word_embeddings.weight", "output_layer.weight")
_LOGGER = logging.getLogger(__name__)
Report = Callable[[int], object]
"""Receives the number of weights that have been quantized since the last call."""


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """Hold the tensors of a quantized model."""

    tensors: dict[str, torch.Tensor | QuantizedTensor]
    """By `stored_name`."""
    num_quantized: int
    """Weights."""
    coarse: tuple[str, ...]
    """Names of matrices with 8 bits instead of 4, because the group size does not divide their inputs."""
    fine: tuple[str, ...]
    """Names of matrices with 8 bits instead of 4, because they were asked for."""
    error_ratio: float | None
    """Squared error of the outputs of all layers on the calibration rows, beyond what the best weights in fp32 leave
    for the inputs of quantized layers, with error feedback divided by rounding alone; None without calibration."""


def quantize_model(
    model: GPT,
    *,
    bits: int,
    group_size: int | None,
    embedding_bits: int,
    calibration: torch.Tensor | None,
    has_offsets: bool = False,
    fine: Collection[str] = (),
    report: Report = lambda _: None,
) -> QuantizedModel:
    """Quantize the linear layers and tables of a model, whose weights become the dequantized ones.

    Norms, biases, positions, routers and heads stay as they are.

    Args:
        model: the whole model in fp32, in this process and on its CPU or device, in evaluation mode.
        bits: 8 or 4.
        group_size: inputs that share a scale; None for whole rows.
        embedding_bits: of the tables of embeddings and output: 8 with a scale a row, 4 in groups of 32, or 32 to leave
            them as they are.
        calibration: [b, s] int64 tokens for error feedback; None rounds to the nearest.
        has_offsets: whether groups of 4 bits have an offset too.
        fine: linear layers' weights that have 8 bits with a scale a row in any case, by `stored_name`.
        report: counts weights.
    """
    described = [*describe_parameters([model]), *describe_buffers([model])]
    names = {id(one.parameter): name_of(one) for one in described}
    tensors: dict[str, torch.Tensor | QuantizedTensor] = {}
    coarse: list[str] = []
    errors = [0.0, 0.0]

    def quantize(weight: torch.Tensor, hessian: Hessian | None = None) -> None:
        name, width = names[id(weight)], weight.shape[1]
        chosen, size = (8, None) if name in fine else fit_groups(width, bits=bits, group_size=group_size)
        if chosen != bits and name not in fine:
            coarse.append(name)
        values = weight.detach().float().cpu()
        quantized = nearest = quantize_rows(values, bits=chosen, group_size=size, has_offsets=has_offsets)
        if hessian is not None:
            matrix, wanted = hessian.matrix, hessian.move(values)
            fed_back = quantize_with_feedback(wanted, matrix, bits=chosen, group_size=size, has_offsets=has_offsets)
            plain, better = (output_error(wanted, one, matrix) for one in (nearest, fed_back))
            quantized = fed_back if better < plain else nearest
            errors[0] += min(plain, better)
            errors[1] += plain
        tensors[name] = quantized
        weight.data.copy_(quantized.dequantize())
        report(weight.numel())

    if calibration is None:
        for layer in model.decoder.layers:
            for linear in linear_layers(layer).values():
                quantize(linear.weight)
    else:
        calibrate(model, calibration, quantize)
    if embedding_bits < 32:
        for name, parameter in model.named_parameters():
            if name in TABLES:
                kept, size = fit_table(parameter.shape[1], embedding_bits=embedding_bits)
                table = quantize_rows(parameter.detach().float().cpu(), bits=kept, group_size=size)
                tensors[names[id(parameter)]] = table
                parameter.data.copy_(table.dequantize())
                report(parameter.numel())
    for one in described:
        tensors.setdefault(name_of(one), one.parameter.detach().float().cpu())
    quantized = [one for one in tensors.values() if isinstance(one, QuantizedTensor)]
    return QuantizedModel(
        tensors=tensors,
        num_quantized=sum(one.values.numel() for one in quantized),
        coarse=tuple(coarse),
        fine=tuple(name for name in tensors if name in fine),
        error_ratio=errors[0] / errors[1] if calibration is not None and errors[1] else None,
    )


def fit_groups(width: int, *, bits: int, group_size: int | None) -> tuple[int, int | None]:
    """Return the bits and the group size of a matrix with so many inputs: 8 and None where the groups do not fit."""
    return (bits, group_size) if group_size is None or width % group_size == 0 else (8, None)


def fit_table(width: int, *, embedding_bits: int) -> tuple[int, int | None]:
    """Return the bits and the group size of a table with so many columns."""
    return fit_groups(width, bits=4, group_size=TABLE_GROUP_SIZE) if embedding_bits == 4 else (8, None)


def name_of(sharded: ShardedParameter) -> str:
    """Return the stored name of a whole parameter, of which one process has all blocks."""
    block = sharded.blocks[0]
    return stored_name(block.key, block.global_offset[: block.num_stacked_axes])
