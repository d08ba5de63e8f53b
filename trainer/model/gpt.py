"""Build this pipeline stage's model chunks from Megatron-Core's GPTModel."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
from torch import nn
from torch.nn import functional

from trainer.config.lora import LoraConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.activation import PLAIN_ACTIVATIONS, soft_cap
from trainer.model.cache import CachedStep
from trainer.model.cross_entropy import count_columns, vocab_parallel_cross_entropy
from trainer.model.embedding import NormedEmbedding
from trainer.model.forward_only import ShortTransformerLayer, pack_linear_layers
from trainer.model.heads import MaskedLmHead, TaskHead
from trainer.model.initialization import initialize_weights
from trainer.model.kernels import EAGER, Kernels
from trainer.model.layer_spec import build_block_submodules, norm_spec, torch_dtype
from trainer.model.lora import freeze_base
from trainer.model.moe import find_routers, moe_settings
from trainer.model.packed_weights import can_pack, multiply, pack
from trainer.model.quantized import QuantizedWeight
from trainer.model.rotary import frequencies_at
from trainer.model.rotary_tables import RotaryTables, attention_factor
from trainer.model.sequence_exchange import slice_for_context_parallel
from trainer.model.sharding import describe_parameters
from trainer.model.target_positions import TargetPositions, find_target_positions


class GPT(GPTModel):
    """Megatron-Core's model with this project's cross entropy and rotary angles.

    Args:
        rotary_tables: angles of the layers; None for a model with learned positions.
        embedding: replaces Megatron-Core's input embeddings on the first stage.
        head: on the last stage, transforms hidden states before the output layer, or replaces it (`TaskHead`).
        has_vocab_bias: the output layer has a bias.
        has_unequal_layers: layers differ in their tensors, so checkpoints name them one by one.
        embedding_scale: factor of the token embeddings.
        final_logit_softcapping: bound of the logits, cap * tanh(logit / cap); None for none.
        reset_position_ids: rotary embeddings follow position_ids, which every pipeline stage then receives; otherwise
            they count from 0 along the sequence, once for all micro batches. Learned positions always follow
            position_ids.
        unpadded_vocab_size: tokens of a padded vocabulary: the columns after them are excluded from the loss, and their
            logits are -inf. None takes all.
        kernels: the implementation of cross entropy; layers get theirs from their specification.
    """

    embedding: LanguageModelEmbedding
    """Of the first stage."""

    def __init__(
        self,
        *args: Any,
        rotary_tables: RotaryTables | None = None,
        embedding: NormedEmbedding | None = None,
        head: nn.Module | None = None,
        has_vocab_bias: bool = False,
        has_unequal_layers: bool = False,
        embedding_scale: float | None = None,
        final_logit_softcapping: float | None = None,
        reset_position_ids: bool = False,
        unpadded_vocab_size: int | None = None,
        kernels: Kernels = EAGER,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rotary_tables = rotary_tables
        if embedding is not None and self.pre_process:
            # The table that Megatron-Core has marked and shared with the output layer.
            embedding.word_embeddings = self.embedding.word_embeddings
            self.embedding = embedding
        self.head = head if self.post_process else None
        if isinstance(self.head, TaskHead):
            del self.output_layer
        if has_vocab_bias and self.post_process:
            width = self.vocab_size // self.pg_collection.tp.size()
            bias = nn.Parameter(torch.zeros(width, dtype=self.config.params_dtype))
            bias.tensor_model_parallel, bias.partition_dim = True, 0  # type: ignore[attr-defined]
            self.output_layer.bias = bias
        self.has_unequal_layers = has_unequal_layers
        # Rounded to the weights' type, as Gemma's reference implementation does.
        scale = None if embedding_scale is None else torch.tensor(embedding_scale, dtype=self.config.params_dtype)
        self.embedding_scale = None if scale is None else scale.item()
        self.final_logit_softcapping = final_logit_softcapping
        self.reset_position_ids = reset_position_ids
        self.unpadded_vocab_size = unpadded_vocab_size
        self._kernels = kernels
        self.computes_all_positions = False
        """For those who look at what is inside."""
        self._picks_in_layer = self._let_last_layer_pick()
        self.packed_output: torch.Tensor | QuantizedWeight | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any = None,
        *args: Any,
        labels: torch.Tensor | None = None,
        token_types: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return losses [b, s] with labels, else logits [b, s, v] (v / tp_size unless they are gathered).

        A model with a task head takes no labels and returns its scores, see `TaskHead`. A stage that is not the last
        returns its hidden states [s, b, h].

        Args:
            input_ids: [b, s] int64.
            position_ids: [b, s] int64.
            attention_mask: [b, s] int32, where each position's document begins; None is one document. Or a step with a
                key-value cache.
            token_types: [b, s] int64, for a model with a table of them; None is type 0.
            loss_mask: [b, s], on the CPU, 0 where the loss or the score of a task is not read: unless these positions
                are few, what follows the last attention is computed of the others only, and the result is 0 there.
            Others: those of Megatron-Core's `GPTModel.forward`.
        """
        if token_types is not None and self.pre_process:
            kwargs["decoder_input"] = self.embedding(input_ids, position_ids, token_types)
        targets = self._find_targets(loss_mask, has_labels=labels is not None)
        if targets is not None and self._picks_in_layer:
            # Megatron-Core passes this argument on to all layers as it is, also to those that are computed again.
            kwargs["extra_block_kwargs"] = {"attention_bias": targets}
        output: torch.Tensor = super().forward(
            input_ids, position_ids, attention_mask, *args, labels=labels, loss_mask=targets, **kwargs
        )
        if labels is not None or not self.post_process or isinstance(self.head, TaskHead):
            return output
        output = self._cap(output)
        if self.unpadded_vocab_size is not None:
            width = output.shape[-1]
            rank = 0 if width == self.vocab_size else self.pg_collection.tp.rank()
            output[..., count_columns(self.unpadded_vocab_size, width=width, rank=rank) :] = -torch.inf
        return output

    def _cap(self, logits: torch.Tensor) -> torch.Tensor:
        cap = self.final_logit_softcapping
        return logits if cap is None else soft_cap(logits, cap)

    def _preprocess(self, input_ids: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Scale the embeddings and add the rotary angles, the first and second of what is prepared for the layers."""
        prepared = super()._preprocess(input_ids, position_ids, *args, **kwargs)
        decoder_input, _, *others = prepared
        if self.training and decoder_input is not None and not decoder_input.requires_grad:
            # With frozen embeddings: recomputed layers, and the stages' backward passes, start from their input.
            decoder_input.requires_grad_(torch.is_grad_enabled())
        if self.embedding_scale is not None and decoder_input is not None:
            decoder_input = decoder_input * self.embedding_scale
        if self.rotary_tables is None:
            return decoder_input, None, *others
        return decoder_input, self._angles(position_ids), *others

    def _angles(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Return the layers' angles: [s, b | 1, 1, d] of one kind of layers, or [kinds, s, b | 1, 1, d] of several."""
        assert self.rotary_tables is not None
        device = position_ids.device
        if self.reset_position_ids:
            table = self.rotary_tables.angles(self.max_sequence_length, device=device)
            kinds = [frequencies_at(position_ids, table=kind) for kind in table]
            return kinds[0] if len(kinds) == 1 else torch.stack(kinds)
        cp = self.pg_collection.cp
        whole = self.rotary_tables.angles(position_ids.shape[1] * cp.size(), device=device)
        angles = slice_for_context_parallel(whole, cp_rank=cp.rank(), cp_size=cp.size())
        return angles[0] if len(angles) == 1 else angles

    def _postprocess(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        attention_mask: Any = None,
        loss_mask: TargetPositions | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Compute logits or losses; with a key-value cache, logits of each row's last token only: [b, 1, v]."""
        targets = loss_mask
        if targets is not None and not self._picks_in_layer:
            hidden_states = targets.pick_hidden(hidden_states)
        if isinstance(self.head, TaskHead):
            assert not isinstance(attention_mask, CachedStep), "a model with a task head generates nothing"
            scores: torch.Tensor = self.head(hidden_states, attention_mask, targets=targets)
            return scores
        if self.post_process and isinstance(attention_mask, CachedStep):
            return self._last_logits(attention_mask.select_last(hidden_states))
        if targets is not None:
            kwargs["labels"] = targets.pick_labels(kwargs["labels"])
        if self.head is not None:
            hidden_states = self.head(hidden_states)
        output: torch.Tensor = super()._postprocess(hidden_states, *args, attention_mask=attention_mask, **kwargs)
        return output if targets is None else targets.spread(output)

    def _find_targets(self, loss_mask: torch.Tensor | None, *, has_labels: bool) -> TargetPositions | None:
        """Return the positions that are read, on the last stage; None for all."""
        reads_targets_only = self.head.reads_targets_only if isinstance(self.head, TaskHead) else has_labels
        if loss_mask is None or self.computes_all_positions or not self.post_process or not reads_targets_only:
            return None
        tp, is_split = self.pg_collection.tp, self.config.sequence_parallel
        device = next(self.parameters()).device
        num_ranks, rank = (tp.size(), tp.rank()) if is_split else (1, 0)
        return find_target_positions(loss_mask, num_ranks=num_ranks, rank=rank, device=device)

    def _let_last_layer_pick(self) -> bool:
        """Tell the last layer to pick targets before its MLP; False if it cannot: experts count all tokens."""
        layer = self.decoder.layers[-1] if self.post_process and len(self.decoder.layers) else None
        if not isinstance(layer, ShortTransformerLayer) or layer.is_moe_layer:
            return False
        layer.picks_targets = True
        return True

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """Describe all saved tensors for checkpoints, as Megatron-Core does, also without an output layer."""
        if isinstance(self.head, TaskHead):
            # GPTModel's own expects the output layer's entry.
            return MegatronModule.sharded_state_dict(self, prefix, sharded_offsets, metadata)
        return super().sharded_state_dict(prefix, sharded_offsets, metadata)

    def _last_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return all logits, gathered over tensor-parallel ranks: [1, b, h] to [b, 1, v]."""
        if self.head is not None:
            hidden_states = self.head(hidden_states)
        logits = multiply(hidden_states, self.output_weight(), self.output_layer.bias, packed=self.packed_output)
        if self.pg_collection.tp.size() > 1:
            logits = gather_from_tensor_model_parallel_region(logits, group=self.pg_collection.tp)
        return logits.transpose(0, 1)

    def pack_weights(self) -> None:
        """Pack weights for a CPU's matrix kernels, if this is one: the model can then only be used with a cache."""
        pack_linear_layers(self)
        if not self.post_process:
            return
        weight = self.output_weight()
        if self.packed_output is None and can_pack(weight):
            self.packed_output = pack(weight)
            if not self.share_embeddings_and_output_weights:
                weight.data = weight.new_empty(0)

    def output_weight(self) -> torch.Tensor:
        """Return the weight of the output layer, [v / tp_size, h]; with tied embeddings, their table."""
        shared = self.share_embeddings_and_output_weights
        weight: torch.Tensor = self.shared_embedding_or_output_weight() if shared else self.output_layer.weight
        return weight

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of each token: labels [b, s], logits [s, b, v / tp_size] to [b, s] fp32."""
        losses = vocab_parallel_cross_entropy(
            self._cap(logits),
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
    kind = MLATransformerConfig if model.multi_latent_attention else TransformerConfig
    return kind(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_size,
        normalization=model.normalization,
        layernorm_epsilon=model.norm_epsilon,
        layernorm_zero_centered_gamma=model.layernorm_zero_centered_gamma,
        gated_linear_unit=model.is_gated,
        activation_func=PLAIN_ACTIVATIONS.get(model.activation, functional.silu),
        add_bias_linear=model.add_bias_linear,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        softmax_scale=_softmax_scale(model),
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
        use_te_activation_func=model.is_gated and model.transformer_impl == "torch",
        apply_rope_fusion=model.position_embedding_type == "rope" and not model.multi_latent_attention,
        persist_layer_norm=False,
        batch_p2p_comm=False,
        deallocate_pipeline_outputs=True,
        **moe_settings(model, parallel=parallel),
        **_latent_settings(model),
    )


def _softmax_scale(model: ModelConfig) -> float | None:
    """Return the factor of attention scores, with YaRN's factor of queries and of keys; None for the usual one.

    Whole heads are rotated, so the factor of both is the square of one; multi-latent attention rotates parts.
    """
    factor = attention_factor(model)
    if factor == 1.0 or model.multi_latent_attention:
        return model.softmax_scale
    scale = model.head_size**-0.5 if model.softmax_scale is None else model.softmax_scale
    return scale * factor**2


def _latent_settings(model: ModelConfig) -> dict[str, Any]:
    """Translate the settings of multi-latent attention; angles are the model's own."""
    if not model.multi_latent_attention:
        return {}
    return {
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_head_dim": model.qk_head_dim,
        "qk_pos_emb_head_dim": model.qk_pos_emb_head_dim,
        "v_head_dim": model.v_head_dim,
        "rope_type": "rope",
    }


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
    lora: LoraConfig | None = None,
) -> list[GPTModel]:
    """Build and initialize the chunks of pipeline stage `pp_rank`: one, or one per virtual stage.

    Equal seeds give bit-identical weights under every layout. None leaves them undefined, to be loaded.

    Args:
        device: of the model; on the meta device it has shapes but no memory.
        vocab_size: tokens, without padding; None takes padded_vocab_size, the rows of the embedding.
        reset_position_ids: see `GPT`.
        kernels: implementations of element-wise operations.
        lora: adapters, the only weights that are then trained; None for none.
    """
    lora = lora or LoraConfig()
    pp_size = transformer_config.pipeline_model_parallel_size
    vp_size = transformer_config.virtual_pipeline_model_parallel_size
    is_rotary = model.position_embedding_type == "rope"
    norm = norm_spec(model, kernels)
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
                    model=model,
                    pp_rank=pp_rank,
                    vp_stage=vp_stage,
                    kernels=kernels,
                    lora=lora,
                ),
                vocab_size=padded_vocab_size,
                max_sequence_length=model.num_positions,
                pre_process=is_first,
                post_process=is_last,
                # Rotary angles are not Megatron-Core's.
                position_embedding_type="none" if is_rotary else model.position_embedding_type,
                rotary_tables=RotaryTables(model) if is_rotary else None,
                embedding=_build_embedding(model, transformer_config, padded_vocab_size, norm=norm, groups=groups)
                if is_first
                else None,
                head=_build_head(model, transformer_config, norm=norm, groups=groups) if is_last else None,
                has_vocab_bias=model.vocab_bias and model.has_output_layer,
                has_unequal_layers=model.skip_first_layernorm,
                embedding_scale=model.embedding_scale,
                final_logit_softcapping=model.final_logit_softcapping,
                share_embeddings_and_output_weights=model.has_output_layer and not model.has_own_output_table,
                pg_collection=groups,
                vp_stage=vp_stage,
                reset_position_ids=reset_position_ids,
                unpadded_vocab_size=vocab_size if vocab_size != padded_vocab_size else None,
                kernels=kernels,
            )
        chunks.append(chunk_model)
    if seed is not None:
        initialize_weights(
            describe_parameters(chunks),
            seed=seed,
            std=model.init_method_std,
            num_layers=model.num_layers,
            norm_weight=0.0 if model.layernorm_zero_centered_gamma else 1.0,
        )
    if lora.is_on:
        freeze_base(chunks, has_task_head=model.head not in ("lm", "mlm"))
    return _place(chunks, device=device, dtype=transformer_config.params_dtype)


def _build_embedding(
    model: ModelConfig,
    config: TransformerConfig,
    padded_vocab_size: int,
    *,
    norm: ModuleSpec,
    groups: ProcessGroupCollection,
) -> NormedEmbedding | None:
    """Build the input embeddings of a model for which Megatron-Core's are not enough."""
    if not model.embedding_layernorm and not model.num_tokentypes:
        return None
    return NormedEmbedding(
        config=config,
        vocab_size=padded_vocab_size,
        max_sequence_length=model.num_positions,
        position_embedding_type="none" if model.position_embedding_type == "rope" else model.position_embedding_type,
        num_tokentypes=model.num_tokentypes,
        tp_group=groups.tp,
        norm=norm if model.embedding_layernorm else None,
    )


def _build_head(
    model: ModelConfig, config: TransformerConfig, *, norm: ModuleSpec, groups: ProcessGroupCollection
) -> nn.Module | None:
    """Build what follows the last layer, before or instead of the output layer."""
    if model.head == "mlm":
        return MaskedLmHead(config, norm=norm)
    return None if model.has_output_layer else TaskHead(config, model=model, norm=norm, tp_group=groups.tp)


def count_layers(chunks: Sequence[GPTModel], *, num_layers: int) -> torch.Tensor:
    """Count each layer of the model in these chunks: [num_layers] int64, by global layer number."""
    counts = torch.zeros(num_layers, dtype=torch.int64)
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            counts[layer.layer_number - 1] += 1
    return counts


def _place(chunks: Sequence[GPTModel], *, device: torch.device, dtype: torch.dtype) -> list[GPTModel]:
    placed = [chunk.to(device=device, dtype=dtype) for chunk in chunks]
    for _, router in find_routers(placed):
        router._maintain_float32_expert_bias()
    return placed
