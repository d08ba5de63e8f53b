"""Predict the device memory of a pipeline stage, by part.

Sources: Korthikanti et al. 2022 (activations of a layer, in flight under 1F1B and interleaving); Rajbhandari et al.
2020 (16 bytes per parameter, and the parts that ZeRO shards).
"""

from dataclasses import dataclass

import numpy as np

from launch.plan.coefficients import MemoryRates
from launch.plan.job import Layout, ModelShape, Number, TrainingJob, total

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Hold the bytes of one device at the peak, by part; their sum is the required memory."""

    weights: Number
    gradients: Number
    optimizer: Number
    activations: Number
    """Kept for the backward pass of all micro batches in flight, and the working memory of one layer."""
    logits: Number
    """Of one micro batch, with their fp32 copy and gradient."""
    communication: Number
    """Buffers of collectives, and gathered weights."""
    reserve: Number
    """Held by the allocator, but unused because of fragmentation; at most what the device has left, see `_reserve`."""
    context: Number
    """Driver, kernels and libraries."""

    @property
    def total(self) -> Number:
        """Return the sum of all parts."""
        return total(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Describe a pipeline stage for the memory model."""

    index: Number
    """From 0."""
    num_layers: Number
    has_embedding: Number
    has_output: Number


def first_stage(model: ModelShape, layout: Layout) -> Stage:
    """Return the first stage, which has the most micro batches in flight."""
    layers = _layers(model, layout)
    ends = np.where(layout.pp == 1, model.num_layers, layers)
    return Stage(
        index=0 * layout.pp, num_layers=ends, has_embedding=1 + 0 * layout.pp, has_output=1.0 * (layout.pp == 1)
    )


def last_stage(model: ModelShape, layout: Layout) -> Stage:
    """Return the last stage, which has the output layer and, in uneven pipelines, the remaining layers."""
    layers = np.clip(model.num_layers - _layers(model, layout) * (layout.pp - 1), 0, None)
    return Stage(
        index=layout.pp - 1, num_layers=layers, has_embedding=1.0 * (layout.pp == 1), has_output=1 + 0 * layout.pp
    )


def _layers(model: ModelShape, layout: Layout) -> Number:
    return np.ceil(model.num_layers / (layout.pp * layout.vp)) * layout.vp


def predict_peak_memory(job: TrainingJob, rates: MemoryRates) -> Memory:
    """Predict the memory of the fullest device, which is in the first or in the last stage."""
    first = predict_memory(job, rates, first_stage(job.model, job.layout))
    last = predict_memory(job, rates, last_stage(job.model, job.layout))
    is_first = first.total >= last.total
    return Memory(**{name: np.where(is_first, getattr(first, name), getattr(last, name)) for name in vars(first)})


def predict_memory(job: TrainingJob, rates: MemoryRates, stage: Stage) -> Memory:
    """Predict the memory of a device of one stage."""
    model, layout = job.model, job.layout
    dense, experts = stage_parameters(model, layout, stage)
    shards = np.maximum(layout.optimizer_shards, 1)
    expert_shards = np.where(layout.zero_stage > 0, layout.expert_shards, 1)
    sharded = dense / shards + experts / expert_shards
    whole = dense + experts
    # Adapters are weights beside those of the model, and only they have gradients and optimizer state.
    trained = model.trained_share
    weights = np.where(layout.zero_stage >= 3, sharded, whole) * layout.weight_bytes * (1 + model.is_frozen * trained)
    gradients = np.where(layout.zero_stage >= 2, sharded, whole) * layout.gradient_bytes * trained
    optimizer = sharded * (layout.optimizer_bytes + layout.sharded_gradient_bytes) * (1 - layout.offload) * trained
    optimizer = optimizer + whole * layout.extra_unsharded_bytes
    kept, working = _activations_of_layer(job, rates)
    in_flight = micro_batches_in_flight(layout, stage) * stage.num_layers / layout.vp
    tokens = layout.micro_batch_size * model.seq_length / layout.cp
    # The loss is computed before any layer's backward pass, so the larger of both counts at the peak.
    working = working * np.minimum(stage.num_layers, 1)
    logits = stage.has_output * model.has_output_layer * model.target_share * tokens * model.vocab_size / layout.tp
    logits = logits * job.framework.logit_bytes * rates.logits
    is_at_loss = logits > working
    activations = kept * in_flight + np.where(is_at_loss, 0, working)
    logits = np.where(is_at_loss, logits, 0)
    layer = dense / np.maximum(stage.num_layers, 1)
    # Two prefetched layers and the current one; the embedding or output layer with its gradient, when it is reached.
    table = model.vocab_size * model.hidden_size / layout.tp
    unsharded = 3 * layer * layout.weight_bytes + table * (
        layout.weight_bytes + layout.gradient_bytes * (1 - model.is_frozen)
    )
    gathered = np.where(layout.zero_stage >= 3, unsharded, 0)
    buffers = rates.buffer_gib * GIB * _count_groups(layout)
    dynamic = activations + logits + gathered
    context = rates.context_gib * GIB
    needed = weights + gradients + optimizer + buffers + context + dynamic
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        communication=gathered + buffers,
        reserve=_reserve(job, rates, needed=needed, dynamic=dynamic),
        context=context,
    )


MIN_RESERVE = 0.1
"""Fragmentation that an allocator cannot avoid, as a share of transient memory."""


def _reserve(job: TrainingJob, rates: MemoryRates, *, needed: Number, dynamic: Number) -> Number:
    """Return the memory that the allocator holds unused: less where the device is almost full.

    PyTorch's allocator keeps freed blocks for later use, but returns them to the driver, and tries again, when an
    allocation fails.

    Args:
        needed: bytes of everything else.
        dynamic: the transient part of it, which fragments.
    Source: torch.cuda memory management notes, "Memory management".
    """
    room = np.maximum(job.machine.memory_bytes - needed, MIN_RESERVE * dynamic)
    return np.minimum(rates.reserve * dynamic, room)


def _count_groups(layout: Layout) -> Number:
    """Count a device's process groups with more than one rank: each has its own communicator buffers."""
    sizes = (layout.tp, layout.pp, layout.cp, layout.ep, layout.dp)
    return sum((np.minimum(size - 1, 1) for size in sizes), start=np.float64(0))


def stage_parameters(model: ModelShape, layout: Layout, stage: Stage) -> tuple[Number, Number]:
    """Return the dense parameters and the experts' parameters of one device of a stage."""
    share = model.share_of_moe_layers
    per_layer = (
        model.attention_parameters + (1 - share) * model.dense_mlp_parameters + share * model.shared_mlp_parameters
    )
    table = model.vocab_size * model.hidden_size
    shares_table = (model.is_tied > 0) & (stage.has_embedding > 0)
    tables = stage.has_embedding * (table + model.position_rows * model.hidden_size)
    tables = tables + np.where(shares_table, 0, stage.has_output * model.has_output_layer * table)
    experts = share * model.num_experts * model.parameters_of_expert / (layout.ep * layout.etp)
    return (stage.num_layers * per_layer + tables) / layout.tp, stage.num_layers * experts


def micro_batches_in_flight(layout: Layout, stage: Stage) -> Number:
    """Return how many micro batches of one chunk a stage keeps activations for at once.

    1F1B: stage i of p keeps p - i. Interleaved with v chunks: 2 (p - i - 1) + (v - 1) p + 1 (Megatron-Core's warm-up
    and the current one). At most the number of micro batches times the number of chunks.
    """
    after = layout.pp - stage.index
    interleaved = 2 * (after - 1) + (layout.vp - 1) * layout.pp + 1
    chunks = np.where(layout.vp > 1, interleaved, after)
    return np.minimum(chunks, layout.num_microbatches * layout.vp)


def _activations_of_layer(job: TrainingJob, rates: MemoryRates) -> tuple[Number, Number]:
    """Return the bytes of one layer and micro batch: kept activations, and the working memory of the current layer."""
    model, layout, framework = job.model, job.layout, job.framework
    tokens = layout.micro_batch_size * model.seq_length / layout.cp
    size = layout.weight_bytes
    split = np.where(layout.sequence_parallel > 0, layout.tp, 1)
    share = model.share_of_moe_layers
    # Bytes per element of a product's input: 1 where products keep their inputs in fp8.
    kept_input = np.where((job.machine.low_precision > 0) & (framework.keeps_low_precision > 0), 1, size)
    # Per token. Split by sequence parallelism only: inputs of both norms and of the products after them, and dropout
    # masks of one byte. Split by tensor parallelism: queries, keys, values, attention output (again in fp8), MLP.
    hidden = (2 * size + 2 * kept_input + model.dropout_masks) * model.hidden_size
    attention = size * (2 * model.query_width + model.key_value_width)
    attention = attention + np.where(kept_input < size, kept_input, 0) * model.query_width
    # Gate and up, or the activation's input; act(gate), where it is kept; and the second product's input.
    before = model.num_mlp_matrices - 1
    before = before + np.where(model.num_mlp_matrices > 2, framework.keeps_activated_gate, 0)
    mlp = (1 - share) * model.ffn_hidden_size
    mlp = mlp + share * (model.experts_per_token * model.expert_width + model.shared_width)
    moved = share * 2 * model.experts_per_token * model.hidden_size * kept_input
    inside = attention + (before * size + kept_input) * mlp + moved
    scores = np.where(
        framework.materialises_scores > 0, model.num_attention_heads * model.seq_length * (2 * size + 1), 0
    )
    kept_scores = scores * (1 - layout.recomputes_core)
    layer = tokens * (hidden / split + (inside + kept_scores) / layout.tp) * rates.activations
    boundary = tokens * size * model.hidden_size / split
    kept = (1 - layout.dropped_share) * layer + layout.dropped_share * boundary
    # During its backward pass, one layer has all of its activations, and gradients of its inside.
    everything = tokens * (hidden / split + (inside + scores) / layout.tp) * rates.activations
    return kept, everything * (0.5 + layout.dropped_share * 0.5 + layout.recomputes_core * 0.2)
