"""Hold what differs between the two supported versions of Megatron-Core.

0.16.1 is the last release for Python 3.11; on Python 3.12 it is 0.19.2 (pyproject.toml). The rest of the trainer is the
same under both, checkpoints included: our subclasses pass on the arguments that only one version knows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core import __version__ as _INSTALLED
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from packaging.version import Version
from torch import nn

_IS_0_16 = Version(_INSTALLED) < Version("0.17")


def activation_for_mlp(function: Callable[[torch.Tensor], torch.Tensor] | None) -> Any:
    """Return what `MLPSubmodules.activation_func` takes: the function in 0.16, a builder of a module in 0.19.

    Args:
        function: None leaves the activation to the configuration, in both.
    """
    if function is None or _IS_0_16:
        return function
    return partial(_Activation, function)


def dense_mlp(submodules: MLPSubmodules) -> Any:
    """Return the specification of a layer's dense MLP: a ModuleSpec in 0.16, about which 0.19 warns in every layer."""
    if _IS_0_16:
        return ModuleSpec(module=MLP, submodules=submodules)
    return partial(MLP.as_mlp_submodule, submodules=submodules)


class _Activation(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], *, config: object) -> None:
        super().__init__()
        del config  # 0.19 passes it; the function needs none of it
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)
