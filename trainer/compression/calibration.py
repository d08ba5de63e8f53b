"""Show linear layers the calibration rows, as quantized layers before them and as full ones give them.

b: calibration rows, s: tokens of a row, h: hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import nn
from torch.utils.hooks import RemovableHandle

from trainer.compression.gptq import Hessian
from trainer.model.gpt import GPT

Quantize = Callable[[torch.Tensor, Hessian | None], None]
"""Replaces the values of a linear layer's weight; without a Hessian where no token reached the layer."""


class _EndOfLayersError(Exception):
    """End a forward pass after the last layer: the output layer's logits would take most of the memory."""


def calibrate(model: GPT, calibration: torch.Tensor, quantize: Quantize) -> None:
    """Quantize each linear layer when the calibration rows reach it, so that later ones see what it then computes.

    A layer of the model runs twice: on the outputs of the full layers before it, with its full weights, to know what
    its linear layers should compute; and on the outputs of the quantized layers.

    Args:
        model: the whole model in this process, in evaluation mode.
        calibration: [b, s] int64 tokens.
        quantize: called once for each linear layer, in the order of the computation.
    """
    layers = list(model.decoder.layers)
    followed = [_FollowedLayer(layer, quantize) for layer in layers]
    full_output: list[torch.Tensor] = []

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        full = kwargs | {"hidden_states": full_output.pop()} if full_output else kwargs
        full_output.append(followed[layers.index(layer)].run_full(args, full))

    def leave(layer: nn.Module, inputs: Any, output: Any) -> None:
        followed[layers.index(layer)].finish()
        if layer is layers[-1]:
            raise _EndOfLayersError

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    tokens = calibration.to(next(model.parameters()).device)
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    try:
        with torch.no_grad():
            model(tokens, positions, None)
    except _EndOfLayersError:
        pass
    finally:
        _remove(handles)


class _FollowedLayer:
    """Keep the inputs of a layer's linear layers in the full model, and quantize them in the quantized one."""

    def __init__(self, layer: nn.Module, quantize: Quantize) -> None:
        self._layer, self._quantize = layer, quantize
        self._waiting = linear_layers(layer)
        self._full_inputs: dict[str, torch.Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def run_full(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Run the layer in the full model, and return its output, [s, b, h]; then wait for the quantized one."""
        self._hook(self._keep)
        output: torch.Tensor = self._layer.forward(*args, **kwargs)[0]  # not the call, which would enter again
        _remove(self._handles)
        self._hook(self._reach)
        return output

    def finish(self) -> None:
        """Quantize the experts that no token reached."""
        _remove(self._handles)
        for linear in self._waiting.values():
            self._quantize(linear.weight, None)

    def _hook(self, see: Callable[[str, torch.Tensor], None]) -> None:
        self._handles = [
            linear.register_forward_pre_hook(lambda module, inputs, name=name: see(name, inputs[0]))
            for name, linear in self._waiting.items()
        ]

    def _keep(self, name: str, inputs: torch.Tensor) -> None:
        # An expert sees the tokens that a router sends to it, and not the same ones in the two models.
        if ".experts." not in f".{name}":
            self._full_inputs[name] = inputs

    def _reach(self, name: str, inputs: torch.Tensor) -> None:
        if inputs.numel() and name in self._waiting:
            hessian = Hessian(inputs.shape[-1])
            hessian.add(inputs, self._full_inputs.pop(name, None))
            self._quantize(self._waiting.pop(name).weight, hessian)


def linear_layers(layer: nn.Module) -> dict[str, ColumnParallelLinear | RowParallelLinear]:
    """Return the linear layers of a layer of the model, without routers, by their names in it."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, ColumnParallelLinear | RowParallelLinear)
    }


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
