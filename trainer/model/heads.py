"""Build what stands between the last layer and the output layer. s: sequence, b: batch, h: hidden size."""

import torch
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn
from torch.nn import functional


class MaskedLmHead(nn.Module):
    """Transform hidden states before the output layer of a masked language model: dense layer, GELU, norm.

    Tensor-parallel ranks hold the same weights.

    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), reference implementation (BertLMPredictionHead).
    """

    def __init__(self, config: TransformerConfig, *, norm: ModuleSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(
            config.hidden_size, config.hidden_size, bias=config.add_bias_linear, dtype=config.params_dtype
        )
        self.layernorm = build_module(norm, config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        for parameter in self.dense.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[s, b, h] to [s, b, h]."""
        output: torch.Tensor = self.layernorm(functional.gelu(self.dense(hidden)))
        return output
