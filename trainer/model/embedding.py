"""Build input embeddings with token types and a norm, as encoders have them. s: sequence, b: batch, h: hidden size."""

from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.tensor_parallel.mappings import scatter_to_sequence_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec, build_module


class NormedEmbedding(LanguageModelEmbedding):
    """Megatron-Core's embedding with a norm of the sum before dropout, and token type 0 where none is given.

    Args:
        norm: specification of the norm; None for none.
    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 3.
    """

    def __init__(self, *args: Any, norm: ModuleSpec | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.config
        self.layernorm = (
            None
            if norm is None
            else build_module(norm, config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        )

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, tokentype_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return [s, b, h] (s / tp_size under sequence parallelism) of ids [b, s]."""
        embeddings = self.word_embeddings(input_ids)
        if self.add_position_embedding:
            embeddings = embeddings + self.position_embeddings(position_ids)
        if self.tokentype_embeddings is not None:
            kinds = torch.zeros_like(input_ids) if tokentype_ids is None else tokentype_ids
            embeddings = embeddings + self.tokentype_embeddings(kinds)
        if not self.reduce_scatter_embeddings:  # else the table has returned this rank's part
            embeddings = embeddings.transpose(0, 1).contiguous()
            if self.config.sequence_parallel:
                embeddings = scatter_to_sequence_parallel_region(embeddings, group=self.tp_group)
        if self.layernorm is not None:
            embeddings = self.layernorm(embeddings)
        result: torch.Tensor = self.embedding_dropout(embeddings)
        return result
