"""Choose the kernels of memory-bound operations: eager or compiled ones.

Norms, SwiGLU, rotary embedding and cross entropy are several operations on each element, and as separate kernels each
reads and writes all elements; torch.compile fuses them into one pass. They are compiled as functions, not layer by
layer as in torchtitan: between them are Megatron-Core's linear layers, whose collectives and autograd functions would
cause graph breaks anyway.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from trainer.model.activation import geglu, geglu_tanh, plain_swiglu, swiglu
from trainer.model.cross_entropy import IN_CHUNKS, CrossEntropyForm, differentiate, summarize
from trainer.model.norm import layer_norm, rms_norm
from trainer.model.rotary import apply_rotary, plain_rotary


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Hold one implementation of each operation; implementations differ by rounding only."""

    rms_norm: Callable[..., torch.Tensor]
    layer_norm: Callable[..., torch.Tensor]
    swiglu: Callable[[torch.Tensor], torch.Tensor]
    geglu: Callable[[torch.Tensor], torch.Tensor]
    geglu_tanh: Callable[[torch.Tensor], torch.Tensor]
    rotary: Callable[..., torch.Tensor]
    cross_entropy: CrossEntropyForm

    def gated_activation(self, name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return a gated activation by its name in the configuration; None for one without a gate."""
        forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "swiglu": self.swiglu,
            "geglu": self.geglu,
            "geglu_tanh": self.geglu_tanh,
        }
        return forms.get(name)


EAGER = Kernels(
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    swiglu=swiglu,
    geglu=geglu,
    geglu_tanh=geglu_tanh,
    rotary=apply_rotary,
    cross_entropy=IN_CHUNKS,
)


def choose_kernels(torch_compile: Literal["auto", "always", "never"], *, device: torch.device) -> Kernels:
    """Return the kernels that `model.torch_compile` selects on a device."""
    is_compiled = torch_compile == "always" or (torch_compile == "auto" and device.type == "cuda")
    return compile_kernels("inductor") if is_compiled else EAGER


@functools.cache
def compile_kernels(backend: str) -> Kernels:
    """Compile each operation at its first call; once per process, for all layers."""
    return Kernels(
        rms_norm=torch.compile(rms_norm, backend=backend),
        layer_norm=torch.compile(layer_norm, backend=backend),
        swiglu=torch.compile(plain_swiglu, backend=backend),
        geglu=torch.compile(geglu, backend=backend),
        geglu_tanh=torch.compile(geglu_tanh, backend=backend),
        rotary=torch.compile(plain_rotary, backend=backend),
        cross_entropy=CrossEntropyForm(
            summarize=torch.compile(summarize, backend=backend),
            differentiate=torch.compile(differentiate, backend=backend),
        ),
    )
