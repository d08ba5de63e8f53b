"""Build this pipeline stage's model chunks from Megatron-Core's GPTModel."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.cross_entropy import count_columns, vocab_parallel_cross_entropy
from trainer.model.initialization import initialize_weights
from trainer.model.kernels import EAGER, Kernels
from trainer.model.layer_spec import build_block_submodules, torch_dtype
from trainer.model.moe import moe_settings
from trainer.model.rotary import frequencies_at
from trainer.model.sharding import describe_parameters


class GPT(GPTModel):
    """Megatron-Core's model with this project's cross entropy, and rotary positions that may restart in a sequence.

    Args:
        reset_position_ids: rotary embeddings follow position_ids, which every pipeline stage then receives; otherwise
            they count from 0 along the sequence, once for all micro batches. Learned positions always follow
            position_ids.
        unpadded_vocab_size: tokens of a padded vocabulary: the columns after them are excluded from the loss, and their
            logits are -inf. None takes all.
        kernels: the implementation of cross entropy; layers get theirs from their specification.
    """

    def __init__(
        self,
        *args: Any,
        reset_position_ids: bool = False,
        unpadded_vocab_size: int | None = None,
        kernels: Kernels = EAGER,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reset_position_ids = reset_position_ids
        self.unpadded_vocab_size = unpadded_vocab_size
        self._kernels = kernels

    def forward(self, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return losses [b, s] with labels, else logits [b, s, v] (v / tp_size unless they are gathered).

        A stage that is not the last returns its hidden states [s, b, h].
        """
        output: torch.Tensor = super().forward(*args, labels=labels, **kwargs)
        if labels is None and self.post_process and self.unpadded_vocab_size is not None:
            width = output.shape[-1]
            rank = 0 if width == self.vocab_size else self.pg_collection.tp.rank()
            output[..., count_columns(self.unpadded_vocab_size, width=width, rank=rank) :] = -torch.inf
        return output

    def _preprocess(self, input_ids: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Replace the rotary angles, the second of what Megatron-Core prepares for the layers."""
        prepared = super()._preprocess(input_ids, position_ids, *args, **kwargs)
        if not self.reset_position_ids or self.position_embedding_type != "rope":
            return prepared
        decoder_input, _, *others = prepared
        # Megatron-Core does not slice the angles of a packed sequence for context parallelism.
        table = self.rotary_pos_emb(self.max_sequence_length, packed_seq=True)
        angles = frequencies_at(position_ids, table=table)
        return decoder_input, angles, *others

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of each token: labels [b, s], logits [s, b, v / tp_size] to [b, s] fp32."""
        losses = vocab_parallel_cross_entropy(
            logits,
            labels.transpose(0, 1),
            group=self.pg_collection.tp,
            vocab_size=self.unpadded_vocab_size,
            form=self._kernels.cross_entropy,
        )
        return losses.transpose(0, 1).contiguous()


def build_transformer_config(
    model: ModelConfig, *, parallel: ParallelConfig, precision: PrecisionConfig
) -> TransformerConfig:
    """Translate the configuration into Megatron-Core's; names that both have are the same."""
    dtype = torch_dtype(precision.params_dtype)
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_size,
        normalization=model.normalization,
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=model.activation == "swiglu",
        activation_func=functional.silu if model.activation == "swiglu" else functional.gelu,
        add_bias_linear=model.add_bias_linear,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        num_layers_in_first_pipeline_stage=parallel.num_layers_in_first_pipeline_stage,
        num_layers_in_last_pipeline_stage=parallel.num_layers_in_last_pipeline_stage,
        account_for_embedding_in_pipeline_split=parallel.account_for_embedding_in_pipeline_split,
        account_for_loss_in_pipeline_split=parallel.account_for_loss_in_pipeline_split,
        pipeline_model_parallel_layout=parallel.pipeline_model_parallel_layout,
        context_parallel_size=parallel.context_parallel_size,
        cp_comm_type=parallel.cp_comm_type,
        sequence_parallel=parallel.sequence_parallel,
        recompute_granularity=parallel.recompute_granularity,
        recompute_method=parallel.recompute_method,
        recompute_num_layers=parallel.recompute_num_layers,
        recompute_modules=list(parallel.recompute_modules),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        fp8=precision.fp8,
        # Weights are initialized afterwards, by name: they must not depend on the layout.
        perform_initialization=False,
        use_cpu_initialization=True,
        # These fusions are Apex or Transformer Engine kernels; the `torch` specification has neither.
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        # Megatron-Core's name for "the layer specification names the activation module", as Transformer Engine's own
        # specification does not.
        use_te_activation_func=model.activation == "swiglu" and model.transformer_impl == "torch",
        apply_rope_fusion=model.position_embedding_type == "rope",
        persist_layer_norm=False,
        batch_p2p_comm=False,
        deallocate_pipeline_outputs=True,
        **moe_settings(model, parallel=parallel),
    )


def build_model_chunks(
    model: ModelConfig,
    *,
    transformer_config: TransformerConfig,
    padded_vocab_size: int,
    pp_rank: int,
    groups: ProcessGroupCollection,
    device: torch.device,
    seed: int | None,
    vocab_size: int | None = None,
    reset_position_ids: bool = False,
    kernels: Kernels = EAGER,
) -> list[GPTModel]:
    """Build and initialize the chunks of pipeline stage `pp_rank`: one, or one per virtual stage.

    Equal seeds give bit-identical weights under every layout. None leaves them undefined, to be loaded.

    Args:
        device: of the model; on the meta device it has shapes but no memory.
        vocab_size: tokens, without padding; None takes padded_vocab_size, the rows of the embedding.
        reset_position_ids: see `GPT`.
        kernels: implementations of element-wise operations.
    """
    pp_size = transformer_config.pipeline_model_parallel_size
    vp_size = transformer_config.virtual_pipeline_model_parallel_size
    chunks = []
    for chunk in range(vp_size or 1):
        vp_stage = chunk if vp_size else None
        is_first = pp_rank == 0 and chunk == 0
        is_last = pp_rank == pp_size - 1 and chunk == (vp_size or 1) - 1
        # Megatron-Core builds on the CPU first; for the meta device it must not allocate memory there either.
        with device if device.type == "meta" else contextlib.nullcontext():
            chunk_model = GPT(
                config=transformer_config,
                transformer_layer_spec=build_block_submodules(
                    transformer_config,
                    implementation=model.transformer_impl,
                    pp_rank=pp_rank,
                    vp_stage=vp_stage,
                    kernels=kernels,
                ),
                vocab_size=padded_vocab_size,
                max_sequence_length=model.seq_length,
                pre_process=is_first,
                post_process=is_last,
                position_embedding_type=model.position_embedding_type,
                rotary_base=model.rotary_base,
                rope_scaling=model.rope_scaling_factor is not None,
                rope_scaling_factor=model.rope_scaling_factor or 1.0,
                share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
                pg_collection=groups,
                vp_stage=vp_stage,
                reset_position_ids=reset_position_ids,
                unpadded_vocab_size=vocab_size if vocab_size != padded_vocab_size else None,
                kernels=kernels,
            )
        chunks.append(chunk_model)
    if seed is not None:
        initialize_weights(
            describe_parameters(chunks), seed=seed, std=model.init_method_std, num_layers=model.num_layers
        )
    return _place(chunks, device=device, dtype=transformer_config.params_dtype)


def count_layers(chunks: Sequence[GPTModel], *, num_layers: int) -> torch.Tensor:
    """Count each layer of the model in these chunks: [num_layers] int64, by global layer number."""
    counts = torch.zeros(num_layers, dtype=torch.int64)
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            counts[layer.layer_number - 1] += 1
    return counts


def _place(chunks: Sequence[GPTModel], *, device: torch.device, dtype: torch.dtype) -> list[GPTModel]:
    return [chunk.to(device=device, dtype=dtype) for chunk in chunks]
