"""Record what happens inside the layers of a pipeline stage while a sequence passes through them.

s: tokens, h: hidden size, n: query heads and f: neurons of an MLP of this tensor-parallel rank, e: experts.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.interpret.attention_maps import attention_probabilities
from trainer.model.attention import SdpaCoreAttention
from trainer.model.gpt import GPT


@dataclass(kw_only=True)
class Captured:
    """Hold tensors on the CPU by the number of the layer, from 1; of one row of tokens."""

    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    """[s, h] fp32 after each layer; 0 is what enters the first one."""
    attention: dict[int, torch.Tensor] = field(default_factory=dict)
    """[n, s, s] fp32 probabilities."""
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)
    """[s, f] fp32, the input of an MLP's second linear layer; none of layers with experts."""
    neuron_norms: dict[int, torch.Tensor] = field(default_factory=dict)
    """[f] fp32, the norm of what each neuron adds to the hidden states at activation 1."""
    routes: dict[int, torch.Tensor] = field(default_factory=dict)
    """[s, e] fp32, the weight of each expert for each token; 0 for experts that were not chosen."""


@contextlib.contextmanager
def capture(model: GPT, *, layers: Collection[int]) -> Iterator[Captured]:
    """Record the next forward pass, of one row.

    Args:
        model: this rank's stage.
        layers: numbers, from 1, of the layers whose attention and neurons are recorded; hidden states and experts are
            recorded of all.
    """
    found = Captured()
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(model.decoder.layers):
            if model.pre_process and number == 0:
                before = _Before(found.hidden, 0)
                stack.callback(layer.register_forward_pre_hook(before.enter, with_kwargs=True).remove)
            _add_hooks(stack, layer, found, is_whole=layer.layer_number in layers)
        yield found


@dataclass(frozen=True)
class _Before:
    """Keep the hidden states that enter a layer."""

    into: dict[int, torch.Tensor]
    number: int

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.into[self.number] = _only_row(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])


def _add_hooks(stack: contextlib.ExitStack, layer: Any, found: Captured, *, is_whole: bool) -> None:
    number: int = layer.layer_number

    def keep_hidden(module: nn.Module, args: Any, output: Any) -> None:
        found.hidden[number] = _only_row(output[0] if isinstance(output, tuple) else output)

    def keep_attention(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, SdpaCoreAttention)
        found.attention[number] = attention_probabilities(module, args[0], args[1])[0].cpu()

    def keep_neurons(module: Any, args: tuple[Any, ...]) -> None:
        found.neurons[number] = _only_row(args[0])
        found.neuron_norms[number] = module.weight.detach().float().norm(dim=0).cpu()

    def keep_routes(module: nn.Module, args: Any, output: Any) -> None:
        found.routes[number] = output[0].detach().float().cpu()

    stack.callback(layer.register_forward_hook(keep_hidden).remove)
    if layer.is_moe_layer:
        stack.callback(layer.mlp.router.register_forward_hook(keep_routes).remove)
    if not is_whole:
        return
    core = layer.self_attention.core_attention
    stack.callback(core.register_forward_pre_hook(keep_attention).remove)
    if not layer.is_moe_layer:
        stack.callback(layer.mlp.linear_fc2.register_forward_pre_hook(keep_neurons).remove)


def _only_row(states: torch.Tensor) -> torch.Tensor:
    """Copy [s, 1, channels] to [s, channels] fp32 on the CPU."""
    return states.detach()[:, 0].float().cpu().clone()
