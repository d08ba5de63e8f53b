"""Add a branch of a layer to the residual stream, with a norm on the branch or on the sum."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

Branch = tuple[torch.Tensor, torch.Tensor | None]
"""What attention and MLP return: [s, b, h], and a bias that is added later."""


class NormedAdd(nn.Module):
    """Take the place of Megatron-Core's bias-dropout-add, with a norm: residual + norm(branch), or norm of the sum.

    Args:
        norm: specification of the norm.
        placement: branch normalizes the branch with its bias, before dropout; sum normalizes the sum.
    Source: OLMo 2 (arXiv:2501.00656, section 3.3) and Gemma 2 (arXiv:2408.00118, section 2) for branch; BERT for sum.
    """

    def __init__(
        self, config: TransformerConfig, norm: ModuleSpec, placement: Literal["branch", "sum"], **_: Any
    ) -> None:
        super().__init__()
        self.norm = build_module(norm, config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.placement = placement

    def forward(self, is_training: bool, is_fused: bool) -> Callable[[Branch, torch.Tensor, float], torch.Tensor]:
        """Return the function of branch, residual and dropout's probability, as Megatron-Core's layer asks for it."""
        add = get_bias_dropout_add(is_training, is_fused)
        if self.placement == "sum":

            def add_and_normalize(branch: Branch, residual: torch.Tensor, dropout: float) -> torch.Tensor:
                result: torch.Tensor = self.norm(add(branch, residual, dropout))
                return result

            return add_and_normalize

        def normalize_and_add(branch: Branch, residual: torch.Tensor, dropout: float) -> torch.Tensor:
            output, bias = branch
            normalized = self.norm(output if bias is None else output + bias)
            result: torch.Tensor = add((normalized, None), residual, dropout)
            return result

        return normalize_and_add
