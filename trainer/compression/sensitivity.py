"""Choose the matrices that are worth 8 bits instead of 4, by an estimate of what 4 bits cost the model's loss.

To second order, outputs of a layer that are off by d raise the loss by the mean of (g d)^2 / 2 over tokens and outputs,
where g is the gradient of the loss on the rows' own text (the empirical Fisher information; Dong et al. 2020, HAWQ-V2,
arXiv:1911.03852, choose bits by the trace of the Hessian). Products of different outputs are left out. d^2 is known
before anything is rounded, see `trainer.compression.gptq.expected_errors`. So two passes say for all matrices at once
what would take an evaluation of each to measure. On SmolLM2-135M-Instruct with 32 calibration rows, the KL divergence
from the full model on other rows is 0.057 with 4 bits alone, 0.043 with 8 bits for queries, keys and values, and 0.035
with those that the estimate chooses for about as many bytes.

b: calibration rows, s: tokens of a row, n: outputs.
"""

from typing import Any

import torch

from trainer.compression.calibration import calibrate, linear_layers
from trainer.compression.gptq import Hessian, expected_errors
from trainer.compression.quantizing import TABLES, fit_groups, fit_table, name_of
from trainer.model.gpt import GPT
from trainer.model.sharding import describe_buffers, describe_parameters

_NUM_ROWS = 16
"""Calibration rows that are looked at, spread over all."""
_BATCH_TOKENS = 512


def choose_fine(
    model: GPT, calibration: torch.Tensor, *, group_size: int | None, embedding_bits: int, max_size: float
) -> frozenset[str]:
    """Return the linear layers' weights to which 8 bits bring most for each byte, as many as the size allows.

    Args:
        model: the whole model in this process, in evaluation mode, with full weights.
        calibration: [b, s] int64 tokens; rows of one token predict nothing, and nothing is chosen.
        group_size: inputs that share a scale with 4 bits; None for whole rows.
        embedding_bits: see `quantize_model`.
        max_size: of the quantized model, as a share of fp32.
    Returns:
        Names, by `stored_name`.
    """
    names = {id(one.parameter): name_of(one) for one in describe_parameters([model])}
    linears = {id(linear.weight) for layer in model.decoder.layers for linear in linear_layers(layer).values()}
    total, costs = 0, {}
    spare = -4.0 * sum(one.parameter.numel() for one in describe_buffers([model]))
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        size = 4 * parameter.numel()
        if id(parameter) in linears:
            bits, group = fit_groups(parameter.shape[1], bits=4, group_size=group_size)
            size = _count_bytes(parameter, bits=bits, group_size=group)
            if bits == 4:
                costs[names[id(parameter)]] = _count_bytes(parameter, bits=8, group_size=None) - size
        elif name in TABLES and embedding_bits < 32:
            bits, group = fit_table(parameter.shape[1], embedding_bits=embedding_bits)
            size = _count_bytes(parameter, bits=bits, group_size=group)
        spare -= size
    spare += max_size * 4 * total
    if not costs or spare < min(costs.values()) or calibration.shape[1] < 2:
        return frozenset()
    gains = {names[id(weight)]: gain for weight, gain in estimate_gains(model, calibration, group_size=group_size)}
    chosen = set()
    for name in sorted(gains, key=lambda name: gains[name] / costs[name], reverse=True):
        if gains[name] > 0 and costs[name] <= spare:
            chosen.add(name)
            spare -= costs[name]
    return frozenset(chosen)


def estimate_gains(
    model: GPT, calibration: torch.Tensor, *, group_size: int | None
) -> list[tuple[torch.Tensor, float]]:
    """Return by how much less the loss rises with 8 bits in a matrix, and one scale a row, than with 4 in groups.

    Args:
        model, calibration, group_size: see `choose_fine`.
    Returns:
        Weights of linear layers that a token reached and whose inputs the group size divides, with nats a token.
    """
    rows = calibration[:: max(1, len(calibration) // _NUM_ROWS)][:_NUM_ROWS]
    errors: dict[torch.Tensor, torch.Tensor] = {}

    def predict(weight: torch.Tensor, hessian: Hessian | None) -> None:
        if hessian is None or (group_size is not None and weight.shape[1] % group_size):
            return
        values = weight.detach().float().cpu()
        coarse = expected_errors(values, hessian.matrix, bits=4, group_size=group_size)
        errors[weight] = coarse - expected_errors(values, hessian.matrix, bits=8, group_size=None)

    calibrate(model, rows, predict)
    squares = _squared_gradients(model, rows)
    return [
        (weight, float((squares[weight] * error).sum()) / 2) for weight, error in errors.items() if weight in squares
    ]


def _squared_gradients(model: GPT, rows: torch.Tensor) -> dict[torch.Tensor, torch.Tensor]:
    """Return the squared gradients of the loss by the outputs of linear layers, in the mean over tokens: [n] fp32.

    Args:
        model: see `estimate_gains`.
        rows: [b, s]; each token but the first of a row is predicted.
    Returns:
        By the linear layer's weight, only of those that a token reached.
    """
    sums: dict[torch.Tensor, torch.Tensor] = {}

    def see(linear: Any, inputs: Any, output: Any) -> None:
        weight = linear.weight

        def add(gradient: torch.Tensor) -> None:
            square = gradient.float().square().flatten(0, -2).sum(dim=0).cpu()
            sums[weight] = sums[weight] + square if weight in sums else square

        if output[0].requires_grad:
            output[0].register_hook(add)

    linears = [linear for layer in model.decoder.layers for linear in linear_layers(layer).values()]
    handles = [linear.register_forward_hook(see) for linear in linears]
    # Weights take no gradients, so hidden states must.
    handles.append(model.embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_()))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    device, length = trained[0].device, rows.shape[1] - 1
    try:
        for weight in trained:
            weight.requires_grad_(False)
        with torch.enable_grad():
            for part in rows.to(device).split(max(1, _BATCH_TOKENS // length)):
                positions = torch.arange(length, device=device).expand(len(part), -1)
                labels = part[:, 1:].contiguous()
                model(part[:, :-1].contiguous(), positions, None, labels=labels).float().sum().backward()
    finally:
        for weight in trained:
            weight.requires_grad_(True)
        for handle in handles:
            handle.remove()
    num_tokens = len(rows) * length
    return {weight: total / num_tokens for weight, total in sums.items()}


def _count_bytes(matrix: torch.Tensor, *, bits: int, group_size: int | None) -> int:
    """Return the bytes of integers and scales."""
    num_rows, num_columns = matrix.shape
    return num_rows * num_columns * bits // 8 + 2 * num_rows * (num_columns // (group_size or num_columns))
