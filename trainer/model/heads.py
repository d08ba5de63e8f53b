"""Build what follows the last layer, before or instead of the output layer.

s: sequence, b: batch, h: hidden size, k: scores per document or token.
"""

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import distributed, nn
from torch.nn import functional

from trainer.config.model import ModelConfig
from trainer.model.key_intervals import find_document_ends
from trainer.model.target_positions import TargetPositions


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


class TaskHead(nn.Module):
    """Score documents or tokens for a task, in place of the output layer.

    Classification pools the hidden states of each document; then follow, for every head, the layers of `model.pooler`,
    dropout, and one linear layer. `model.head=none` has no such layer and returns hidden states; the weights of its
    pooler are kept for a later classifier. Tensor-parallel ranks hold the same weights and compute the same.

    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 4; the classes BertForSequenceClassification,
    ModernBertForSequenceClassification and LlamaForSequenceClassification of transformers.
    """

    def __init__(
        self, config: TransformerConfig, *, model: ModelConfig, norm: ModuleSpec, tp_group: distributed.ProcessGroup
    ) -> None:
        super().__init__()
        size, dtype = config.hidden_size, config.params_dtype
        self.kind = model.head
        self.reads_targets_only = model.reads_targets_only
        self.pooling = model.pooling
        self.sequence_parallel = config.sequence_parallel
        self.tp_group = tp_group
        if model.pooler == "tanh":
            self.pooler = nn.Linear(size, size, dtype=dtype)
        elif model.pooler == "gelu":
            # The names of a masked language model's head, whose weights they begin with (as in transformers).
            self.dense = nn.Linear(size, size, bias=config.add_bias_linear, dtype=dtype)
            self.layernorm = build_module(norm, config=config, hidden_size=size, eps=config.layernorm_epsilon)
            for parameter in self.layernorm.parameters():
                parameter.sequence_parallel = False
        self.activation = model.pooler
        self.dropout = model.head_dropout
        if model.num_scores is not None:
            self.classifier = nn.Linear(size, model.num_scores, bias=model.head_bias, dtype=dtype)

    def forward(
        self,
        hidden: torch.Tensor,
        document_starts: torch.Tensor | None,
        *,
        targets: TargetPositions | None = None,
    ) -> torch.Tensor:
        """Score.

        Args:
            hidden: [s, b, h]; under sequence parallelism this rank's part of s.
            document_starts: [b, s] integers, where each position's document begins; None is one document a row.
            targets: of a model that reads targets only, the positions that are scored; `hidden` is then [n, 1, h] of
                them, and other scores are 0.
        Returns:
            [b, s, k] fp32. Of classification, the scores of a document are at its first token, and 0 elsewhere. Without
            a task (`none`) hidden states, [b, s, h] in their own type.
        """
        if self.sequence_parallel:
            # All ranks go on alike, so the gradient is not summed over them.
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False, group=self.tp_group
            )
        hidden = hidden.transpose(0, 1)
        if targets is not None:
            return targets.spread(self._score(hidden))
        if self.kind == "none":
            return hidden.contiguous()
        if self.kind != "classification":
            return self._score(hidden)
        if document_starts is None:
            document_starts = torch.zeros(hidden.shape[:2], dtype=torch.int32, device=hidden.device)
        return self._score_documents(hidden, document_starts)

    def pool_first(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Return what the pooler of a model without a task makes of first tokens: [b, s, h] to [b, h]."""
        return self.pooler(hidden[:, 0]).tanh() if self.kind == "none" and self.activation == "tanh" else None

    def _score_documents(self, hidden: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """[b, s, h] hidden states and [b, s] beginnings of documents to [b, s, k]."""
        first = starts == torch.arange(starts.shape[1], device=starts.device, dtype=starts.dtype)
        rows, columns = torch.nonzero(first, as_tuple=True)
        ends = find_document_ends(starts)[rows, columns].long()
        if self.pooling == "first":
            pooled = hidden[rows, columns]
        elif self.pooling == "last":
            pooled = hidden[rows, ends]
        else:
            # Documents follow each other without gaps, through all rows.
            tokens = hidden.float().flatten(0, 1)
            pooled = torch.segment_reduce(tokens, "mean", lengths=ends - columns + 1, axis=0).to(hidden.dtype)
        scores = self._score(pooled)
        return scores.new_zeros(*starts.shape, scores.shape[-1]).index_put((rows, columns), scores)

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., h] to [..., k] fp32."""
        if self.activation == "tanh":
            hidden = self.pooler(hidden).tanh()
        elif self.activation == "gelu":
            hidden = self.layernorm(functional.gelu(self.dense(hidden)))
        hidden = functional.dropout(hidden, p=self.dropout, training=self.training)
        scores: torch.Tensor = self.classifier(hidden)
        return scores.float()
