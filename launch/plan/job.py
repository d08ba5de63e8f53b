"""Describe training jobs for the planner: model, layout, machine, framework; fields may be arrays of many layouts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.config.lora import LoraConfig
from trainer.config.lora_math import count_trained_parameters
from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers
from trainer.config.model_math import attention_matrix_parameters, count_parameters, mean_keys_share

Array = NDArray[np.float64]
Number = float | Array
"""One value, or one per case."""

T = TypeVar("T")


def stack(cases: Sequence[T]) -> T:
    """Stack instances of a dataclass of numbers, including nested dataclasses: [n] per field."""
    first: Any = cases[0]
    values = {}
    for field in dataclasses.fields(first):
        column = [getattr(case, field.name) for case in cases]
        is_nested = dataclasses.is_dataclass(column[0])
        values[field.name] = stack(column) if is_nested else np.asarray(column, dtype=np.float64)
    return type(first)(**values)


def take(cases: T, index: Any) -> T:
    """Select cases by an index, a mask or a list of indices; a field with one number for all of them is unchanged."""
    values = {}
    for field in dataclasses.fields(cases):  # type: ignore[arg-type]
        value = getattr(cases, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = take(value, index)
        else:
            values[field.name] = value[index] if np.ndim(value) else value
    return type(cases)(**values)


def total(parts: Any) -> Number:
    """Return the sum of all fields of a dataclass of numbers."""
    return sum((getattr(parts, field.name) for field in dataclasses.fields(parts)), start=0.0)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Describe a transformer. Widths are in elements."""

    num_layers: Number
    hidden_size: Number
    seq_length: Number
    vocab_size: Number
    """Rows of the embedding, with padding."""
    num_attention_heads: Number
    query_width: Number
    """Width of all query heads."""
    key_value_width: Number
    """Width of all key heads and all value heads together."""
    attention_parameters: Number
    """Parameters of one layer's projections."""
    ffn_hidden_size: Number
    num_mlp_matrices: Number
    """3 with a gate, otherwise 2."""
    is_tied: Number
    """1 where the output layer shares the embedding's weights."""
    position_rows: Number
    """Rows of a learned position embedding."""
    dropout_masks: Number
    """Dropout masks of the hidden state that a layer keeps: 2, or 0 without dropout."""
    share_of_keys: Number = 1.0
    """Keys that a query attends to on average, relative to all before it: below 1 with sliding windows."""
    has_output_layer: Number = 1.0
    """0 where a task's head, which is small, takes the place of the output layer."""
    target_share: Number = 1.0
    """Share of positions that have a target, and therefore logits: below 1 with masked tokens."""
    trained_share: Number = 1.0
    """Parameters that are trained, relative to those of the model: small with adapters."""
    is_frozen: Number = 0.0
    """1 where the model's own weights get no gradients, because adapters are trained."""
    num_moe_layers: Number = 0
    num_experts: Number = 0
    experts_per_token: Number = 0
    expert_width: Number = 0
    shared_width: Number = 0

    @property
    def dense_mlp_parameters(self) -> Number:
        """Return the MLP parameters of one layer without experts."""
        return self.num_mlp_matrices * self.hidden_size * self.ffn_hidden_size

    @property
    def shared_mlp_parameters(self) -> Number:
        """Return the parameters that every token uses in a layer with experts: router and shared expert."""
        return self.hidden_size * (self.num_experts + self.num_mlp_matrices * self.shared_width)

    @property
    def parameters_of_expert(self) -> Number:
        """Return the parameters of one expert."""
        return self.num_mlp_matrices * self.hidden_size * self.expert_width

    @property
    def share_of_moe_layers(self) -> Number:
        """Return the share of layers with experts."""
        return self.num_moe_layers / self.num_layers


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Describe how a model is distributed over devices, and what each device stores."""

    tp: Number
    pp: Number
    vp: Number
    """Chunks per pipeline stage."""
    cp: Number
    ep: Number
    etp: Number
    """Expert tensor-parallel size."""
    dp: Number
    micro_batch_size: Number
    num_microbatches: Number
    sequence_parallel: Number
    recomputed_share: Number
    """Share of the time of the layers' forward passes that is recomputed."""
    dropped_share: Number
    """Share of the layers' activations that is not kept, because it is recomputed: more than `recomputed_share` where
    attention, which takes long and keeps little, is not recomputed."""
    recomputes_core: Number
    """1 where the other layers recompute the core of attention: scores and their weighted sum."""
    zero_stage: Number
    optimizer_shards: Number
    """Devices that shard the optimizer state of a dense parameter."""
    weight_bytes: Number
    """Per parameter, of weights and activations."""
    gradient_bytes: Number
    """Per parameter, of gradients accumulated over micro batches."""
    optimizer_bytes: Number
    """Per parameter: both moments, and an fp32 copy of 16-bit weights."""
    extra_unsharded_bytes: Number = 0
    """Per parameter, of copies that are not sharded."""
    sharded_gradient_bytes: Number = 0
    """Per parameter and divided by the shards: fp32 copies of gradients in the optimizer step."""
    offload: Number = 0
    """1 where the optimizer state is in host memory."""

    @property
    def num_devices(self) -> Number:
        """Return the number of devices of the job."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def expert_shards(self) -> Number:
        """Return the number of devices with a replica of one expert, which share its optimizer state."""
        return np.maximum(self.tp * self.cp * self.dp / (self.ep * self.etp), 1)

    @property
    def num_sequences(self) -> Number:
        """Return the sequences of an optimizer step."""
        return self.micro_batch_size * self.num_microbatches * self.dp


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Describe one device and its links; rates are per second."""

    flops: Number
    """Floating-point operations, in the format of matrix products."""
    attention_flops: Number
    """Floating-point operations, in the format of attention (16 bits, even where products are fp8)."""
    memory_bytes: Number
    memory_rate: Number
    link_rate: Number
    """Bytes, one direction, within a domain."""
    link_domain: Number
    """Number of devices in a domain."""
    network_rate: Number
    """Bytes, one direction, from one device to other domains."""
    low_precision: Number
    """1 where products are fp8, 2 where fp4: quantizing their inputs takes additional passes over memory."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Describe how a framework computes and communicates; see data/frameworks.yaml."""

    materialises_scores: Number
    """1 where attention writes its scores to memory, 0 with a fused kernel."""
    skips_masked: Number
    """1 where masked scores are not computed."""
    unfused: Number
    """Passes over memory of norms, activations and residuals, relative to those of fused kernels."""
    hides_gradients: Number
    """Share of data-parallel communication that can overlap with computation."""
    hides_tensor_parallel: Number
    """Share of tensor-parallel communication that overlaps with computation."""
    hides_context: Number
    """Share of context-parallel communication that can overlap with attention: a ring does, an all-gather does not."""
    hides_pipeline: Number
    """Share of sends between stages that overlaps with computation."""
    logit_bytes: Number
    """Bytes per logit at the peak: the logits, their fp32 copy and the gradient."""
    gathers_per_rank: Number
    """1 where each rank broadcasts its own weights after a step."""
    sends_once: Number
    """1 where a token is sent only once to a domain with several of its experts (DeepEP, HybridEP)."""
    keeps_low_precision: Number
    """1 where fp8 and fp4 layers keep their inputs in 8 bits for the backward pass (Transformer Engine)."""
    keeps_activated_gate: Number = 0
    """1 where a gated MLP computes act(gate) * up in two steps, and keeps the inputs of both for the backward pass."""
    cuda_graphs: Number = 0
    """Share of the launches of a layer with experts, without the experts' own, that CUDA graphs replay; 1 where
    they replay the experts', too: graphs of the whole step, or experts padded to a capacity."""
    fuses_experts: Number = 0
    """1 where one kernel computes the experts' grouped products with their activations and the rounding of their inputs
    (Transformer Engine's NVTE_CUTEDSL_FUSED_GROUPED_MLP)."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Describe one training job, or many."""

    model: ModelShape
    layout: Layout
    machine: Machine
    framework: Framework

    @property
    def tokens_per_step(self) -> Number:
        """Return the tokens of an optimizer step."""
        return self.layout.num_sequences * self.model.seq_length


def shape_of(
    model: ModelConfig, *, vocab_size: int, lora: LoraConfig | None = None, target_share: float = 1.0
) -> ModelShape:
    """Return the shape of a configured model.

    Args:
        vocab_size: rows of the embedding, with padding.
        lora: adapters; None trains all weights.
        target_share: see `ModelShape`.
    """
    lora = lora or LoraConfig()
    trained = count_trained_parameters(model, lora, vocab_size)
    query_width = model.num_attention_heads * model.head_size
    key_value_width = 2 * model.num_query_groups * model.head_size
    if model.multi_latent_attention:
        # Twice the query width is that of queries and of attention's output.
        rotated = model.qk_head_dim + model.qk_pos_emb_head_dim
        query_width = model.num_attention_heads * (rotated + model.v_head_dim) // 2
        key_value_width = model.num_attention_heads * (rotated + model.v_head_dim)
    return ModelShape(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        seq_length=model.seq_length,
        vocab_size=vocab_size,
        num_attention_heads=model.num_attention_heads,
        query_width=query_width,
        key_value_width=key_value_width,
        attention_parameters=attention_matrix_parameters(model),
        share_of_keys=mean_keys_share(model),
        ffn_hidden_size=model.ffn_hidden_size,
        num_mlp_matrices=3 if model.is_gated else 2,
        is_tied=int(not model.untie_embeddings_and_output_weights),
        has_output_layer=int(model.has_output_layer),
        target_share=target_share,
        trained_share=trained / count_parameters(model, vocab_size),
        is_frozen=int(lora.is_on),
        position_rows=model.num_positions if model.position_embedding_type == "learned_absolute" else 0,
        dropout_masks=2 if model.hidden_dropout else 0,
        num_moe_layers=sum(find_moe_layers(model)),
        num_experts=model.num_moe_experts or 0,
        experts_per_token=model.moe_router_topk if model.num_moe_experts else 0,
        expert_width=find_expert_width(model) if model.num_moe_experts else 0,
        shared_width=model.moe_shared_expert_intermediate_size or 0,
    )
