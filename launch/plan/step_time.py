"""Predict the step time: arithmetic, memory traffic, and exposed communication."""

from dataclasses import dataclass

import numpy as np

from launch.plan.coefficients import Rates
from launch.plan.job import Layout, ModelShape, Number, TrainingJob, total


@dataclass(frozen=True, kw_only=True)
class LayerExchange:
    """Hold the exposed communication time of one layer and micro batch in seconds, forward and backward."""

    tensor: Number
    context: Number
    expert: Number


def layer_exchange(job: TrainingJob, rates: Rates, *, layer: "LayerTime") -> LayerExchange:
    """Return the exposed time of the collectives within a layer."""
    model, layout, framework = job.model, job.layout, job.framework
    hidden = layout.micro_batch_size * model.seq_length / layout.cp * model.hidden_size * layout.weight_bytes
    # Two all-reduces forward and two backward (or as many pairs of gather and scatter), two more with recomputation.
    times = 4 + 2 * layout.recomputed_share
    tensor_rate = _rate_of_group(job, rates, ranks=layout.tp, stride=1)
    tensor = times * 2 * _ring(layout.tp) * hidden / tensor_rate * (1 - framework.hides_tensor_parallel)

    keys = hidden / model.hidden_size * model.key_value_width / layout.tp
    context_rate = _rate_of_group(job, rates, ranks=layout.cp, stride=layout.tp)
    # Keys and values forward; keys, values and their gradients backward.
    ring = 3 * (layout.cp - 1) * keys / context_rate
    context = _exposed(ring, layer.attention + layer.attention_backward, framework.hides_context)

    tokens_sent = hidden / np.where(layout.sequence_parallel > 0, layout.tp, 1)
    # Dispatch and combine, forward and backward.
    expert = model.share_of_moe_layers * times * tokens_sent * _seconds_per_sent_byte(job, rates)
    return LayerExchange(tensor=tensor, context=np.where(layout.cp > 1, context, 0), expert=expert)


def _seconds_per_sent_byte(job: TrainingJob, rates: Rates) -> Number:
    """Return the time to send a token's bytes to its experts, which are on random ranks of expert parallelism."""
    model, layout, machine = job.model, job.layout, job.machine
    domains = np.maximum(layout.ep * layout.etp / machine.link_domain, 1)
    copies = model.experts_per_token
    elsewhere = (domains - 1) / domains
    # Distinct other domains among a token's experts, where a domain receives it once and forwards it internally.
    distinct = (domains - 1) * (1 - elsewhere ** np.maximum(copies, 1) * domains / np.maximum(domains, 1))
    outside = np.where(job.framework.sends_once > 0, np.minimum(distinct, copies * elsewhere), copies * elsewhere)
    inside = copies * _ring(layout.ep) - np.where(job.framework.sends_once > 0, 0, outside)
    link, network = machine.link_rate * rates.link, machine.network_rate * rates.network
    return np.maximum(inside, 0) / link + outside / network


def pipeline_time(job: TrainingJob, rates: Rates) -> Number:
    """Return the exposed time of sending activations and their gradients between stages."""
    model, layout, machine = job.model, job.layout, job.machine
    # Each tensor-parallel rank sends its part; the receivers gather within their domain (Narayanan et al. 2021, 4.1).
    sent = layout.micro_batch_size * model.seq_length / layout.cp * model.hidden_size * layout.weight_bytes / layout.tp
    inside = layout.num_devices <= machine.link_domain
    rate = np.where(inside, machine.link_rate * rates.link, machine.network_rate * rates.network)
    times = layout.num_microbatches + layout.pp - 1
    seconds = 2 * layout.vp * times * sent / rate * (1 - job.framework.hides_pipeline)
    return np.where(layout.pp > 1, seconds, 0)


def data_parallel_time(job: TrainingJob, rates: Rates, *, micro_batch_seconds: Number) -> Number:
    """Return the exposed time of reducing gradients and gathering weights over data- and context-parallel ranks."""
    layout, framework = job.layout, job.framework
    dense, experts = parameters_of_device(job)
    ranks = layout.dp * layout.cp
    rate = _rate_of_group(job, rates, ranks=ranks, stride=layout.tp)
    expert_ranks = layout.expert_shards
    expert_rate = _rate_of_group(job, rates, ranks=expert_ranks, stride=layout.ep * layout.etp)
    per_byte = dense * _ring(ranks) / rate + experts * _ring(expert_ranks) / expert_rate
    # Without sharding, each rank updates all weights: gradients are reduced and gathered, in their own format.
    reduce = per_byte * layout.gradient_bytes * np.where(layout.zero_stage > 0, 1, 2)
    # Weights are gathered among the ranks that shard the optimizer state, which may be fewer.
    holders = np.minimum(layout.optimizer_shards, ranks)
    holder_rate = _rate_of_group(job, rates, ranks=holders, stride=layout.tp)
    gather = dense * _ring(holders) / holder_rate + experts * _ring(expert_ranks) / expert_rate
    gather = np.where(layout.zero_stage > 0, gather, 0) * layout.weight_bytes
    # ZeRO-3 gathers frozen weights, too.
    gather = gather * np.where(layout.zero_stage >= 3, 1, job.model.trained_share)
    per_byte = per_byte * job.model.trained_share
    reduce = reduce * job.model.trained_share
    hides = framework.hides_gradients
    # Once per step: overlaps with the last micro batch's backward pass and the next step's first forward pass.
    once = _exposed(reduce, micro_batch_seconds * 2 / 3, hides) + _exposed(gather, micro_batch_seconds / 3, hides)
    # ZeRO-2 reduces every micro batch, ZeRO-3 also gathers weights for both passes.
    reduce_each = per_byte * layout.weight_bytes
    third = layout.num_microbatches * _exposed(reduce_each + 2 * gather, micro_batch_seconds, hides)
    second = layout.num_microbatches * _exposed(reduce_each, micro_batch_seconds * 2 / 3, hides) + gather
    by_rank = framework.gathers_per_rank * rates.rank_seconds * layout.optimizer_shards
    seconds = np.where(layout.zero_stage >= 3, third, np.where(layout.zero_stage == 2, second, once)) + by_rank
    return np.where(ranks > 1, seconds, 0)


def _exposed(seconds: Number, room: Number, hides: Number) -> Number:
    """Return the exposed time of a transfer of which a share can overlap with `room` seconds of computation."""
    return seconds - np.minimum(seconds, room) * hides


def parameters_of_device(job: TrainingJob) -> tuple[Number, Number]:
    """Return the dense parameters and the experts' parameters of a device of the largest stage."""
    model, layout = job.model, job.layout
    layers = np.ceil(model.num_layers / (layout.pp * layout.vp)) * layout.vp
    share = model.share_of_moe_layers
    per_layer = (
        model.attention_parameters + (1 - share) * model.dense_mlp_parameters + share * model.shared_mlp_parameters
    )
    tables = model.vocab_size * model.hidden_size
    tables = tables * np.where((layout.pp == 1) & (model.is_tied == 0) & (model.has_output_layer > 0), 2, 1)
    experts = share * model.num_experts * model.parameters_of_expert / (layout.ep * layout.etp)
    return (layers * per_layer + tables) / layout.tp, layers * experts


def _ring(ranks: Number) -> Number:
    """Return the share of a buffer that a ring collective sends over each link."""
    return (ranks - 1) / np.maximum(ranks, 1)


def _rate_of_group(job: TrainingJob, rates: Rates, *, ranks: Number, stride: Number) -> Number:
    """Return the bytes per second that each rank of a group sends in a ring.

    Args:
        stride: distance of neighbors in the group, in devices. Ranks of one domain share its network interfaces, one
            per device.
    """
    machine = job.machine
    together = np.clip(machine.link_domain / stride, 1, np.maximum(ranks, 1))
    is_inside = ranks * stride <= machine.link_domain
    domains = np.maximum(ranks * stride / machine.link_domain, 1)
    slower = 1 + rates.straggling * np.log2(domains)
    outside = np.minimum(machine.link_rate * rates.link, together * machine.network_rate * rates.network) / slower
    return np.where(is_inside, machine.link_rate * rates.link, outside)


BACKWARD = 2.0
"""Operations of the backward pass of a matrix product, relative to the forward pass."""
BACKWARD_ATTENTION = 2.5
"""The same for fused attention, which recomputes the scores (Dao et al. 2022)."""
SCORE_BYTES = 13
"""Bytes read and written per score by unfused attention, forward: product (2), softmax (4), dropout and its mask (5),
weighted sum (2)."""
SCORE_BYTES_BACKWARD = 19
"""The same backward: weighted sum (2 + 2), dropout (5), softmax (6), products (4)."""
ADAM_BYTES = 30
"""Bytes read and written per parameter: fp32 weight, moments and gradient, and the 16-bit weight."""
LAYER_LAUNCHES = 275
"""Kernels that the host launches for a layer with experts in both passes, besides the experts' own: an estimate, not a
profile (attention 110, router 75, permutation and exchange 50, gradients 40)."""
EXPERT_LAUNCHES = 6
"""The same for each expert of a device, where each has products of its own: two forward, and two for each of the
gradients of inputs and weights."""
ROUNDED_EXPERT_LAUNCHES = 20
"""More for each expert where inputs and gradients are rounded to fp8, and scales reordered: an estimate."""
LOGIT_PASS_BYTES = 20
"""Bytes read and written per logit by the loss, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Hold the parts of an optimizer step in seconds, for the slowest pipeline stage; their sum is the step time."""

    compute: Number
    """Matrix products, attention and elementwise passes, without recomputation."""
    recompute: Number
    """Recomputation of activations."""
    tensor_parallel: Number
    """Exposed communication, which does not overlap with computation, as all that follow."""
    context_parallel: Number
    expert_parallel: Number
    pipeline_parallel: Number
    data_parallel: Number
    bubble: Number
    """Idle time of stages while the pipeline fills and drains."""
    optimizer: Number
    data: Number
    """Copying prefetched batches to the device."""
    other: Number
    """Constant part: launches, norms, logging."""

    @property
    def total(self) -> Number:
        """Return the step time."""
        return total(self)


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Hold the seconds that one layer takes for one micro batch: forward, and backward for attention."""

    products: Number
    product_backward: Number
    """Time of the products' backward passes, relative to the forward ones."""
    attention: Number
    attention_backward: Number
    passes: Number
    """Elementwise work."""

    @property
    def forward(self) -> Number:
        """Return the time of the forward pass."""
        return self.products + self.attention + self.passes

    @property
    def backward(self) -> Number:
        """Return the time of the backward pass."""
        return self.product_backward * self.products + BACKWARD * self.passes + self.attention_backward


def predict_step_time(job: TrainingJob, rates: Rates) -> StepTime:
    """Predict the time of one optimizer step of each job."""
    layout, model = job.layout, job.model
    layer = layer_time(job, rates)
    launches = rates.launch_seconds
    layers_of_stage = largest_stage(model, layout)
    head = head_time(job, rates)
    again = layout.recomputed_share * (layer.forward + launches)
    again = again + layout.recomputes_core * (1 - layout.recomputed_share) * layer.attention
    # The slowest stage is a middle one, or the last one with the output layer.
    head_layers = model.num_layers - layers_of_stage * (layout.pp - 1)
    with_head = np.maximum(head_layers, 0)
    on_device = layer.forward + layer.backward + 3 * launches
    # With many small kernels of experts, the device waits for the host. The power mean is a smooth maximum.
    on_device = on_device + _accumulation_time(job, rates)
    waiting = model.share_of_moe_layers * rates.expert_launch_seconds * _count_launches(job)
    forward_backward = (on_device**4 + waiting**4) ** 0.25
    exchange = layer_exchange(job, rates, layer=layer)
    per_layer = forward_backward + again + exchange.tensor + exchange.context + exchange.expert
    slowest = np.maximum(layers_of_stage * per_layer, with_head * per_layer + head)
    is_head_slowest = with_head * per_layer + head >= layers_of_stage * per_layer
    num_layers = np.where(is_head_slowest, with_head, layers_of_stage)
    batches = layout.num_microbatches
    factor = rates.framework
    whole = model.num_layers * per_layer + head
    bubble = np.where(layout.pp > 1, np.maximum(whole - slowest, 0) / layout.vp, 0)
    sends = pipeline_time(job, rates)
    micro_batch = slowest
    reduction = data_parallel_time(job, rates, micro_batch_seconds=micro_batch * factor)
    return StepTime(
        compute=batches * (num_layers * forward_backward + np.where(is_head_slowest, head, 0)) * factor,
        recompute=batches * num_layers * again * factor,
        tensor_parallel=batches * num_layers * exchange.tensor,
        context_parallel=batches * num_layers * exchange.context,
        expert_parallel=batches * num_layers * exchange.expert,
        pipeline_parallel=sends,
        data_parallel=reduction,
        bubble=bubble * factor,
        optimizer=_optimizer_time(job, rates),
        data=batches * layout.micro_batch_size * model.seq_length * 16 / 10e9,
        other=rates.step_seconds,
    )


def _count_launches(job: TrainingJob) -> Number:
    """Return how many kernels the host launches for a layer with experts and a micro batch, over both passes."""
    model, layout, framework = job.model, job.layout, job.framework
    of_expert = EXPERT_LAUNCHES + np.where(job.machine.low_precision > 0, ROUNDED_EXPERT_LAUNCHES, 0)
    # One kernel for all experts of a device, if it is fused.
    local = np.where(framework.fuses_experts > 0, 1, model.num_experts / (layout.ep * layout.etp))
    launches = LAYER_LAUNCHES * (1 - framework.cuda_graphs) + of_expert * local
    return np.where(framework.cuda_graphs >= 1, 0, launches)


def largest_stage(model: ModelShape, layout: Layout) -> Number:
    """Return the layers of the middle stages, when layers are split as evenly as chunks allow."""
    return np.ceil(model.num_layers / (layout.pp * layout.vp)) * layout.vp


def layer_time(job: TrainingJob, rates: Rates) -> LayerTime:
    """Predict the time of one average layer for one micro batch on one device."""
    model, layout, machine = job.model, job.layout, job.machine
    tokens = layout.micro_batch_size * model.seq_length / layout.cp
    share = model.share_of_moe_layers
    dense = model.attention_parameters + (1 - share) * model.dense_mlp_parameters + share * model.shared_mlp_parameters
    narrow = _size_factor(tokens, model.hidden_size / layout.tp, rates)
    products = 2 * tokens * dense / layout.tp / (machine.flops * rates.gemm) * narrow
    products = products + dense / layout.tp * layout.weight_bytes / (machine.memory_rate * rates.memory)
    experts = share * model.experts_per_token * model.parameters_of_expert
    # One grouped product covers the tokens of all experts of a device.
    wide = _size_factor(tokens * np.maximum(model.experts_per_token, 1), model.expert_width / layout.etp, rates)
    products = products + np.where(
        model.num_experts > 0,
        2 * tokens * experts / layout.tp / (machine.flops * rates.gemm * rates.expert_gemm) * wide
        + share
        * model.num_experts
        * model.parameters_of_expert
        / (layout.ep * layout.etp)
        * layout.weight_bytes
        / (machine.memory_rate * rates.memory),
        0,
    )
    attention, attention_backward = _attention_time(job, rates, tokens)
    return LayerTime(
        products=products * (1 + model.is_frozen * model.trained_share),
        product_backward=_backward_of_products(model),
        attention=attention,
        attention_backward=attention_backward,
        passes=_pass_time(job, rates, tokens),
    )


def _backward_of_products(model: ModelShape) -> Number:
    """Return the time of the products' backward passes, relative to the forward ones: less with frozen weights."""
    return np.where(model.is_frozen > 0, BACKWARD - 1 + model.trained_share, BACKWARD)


def _size_factor(tokens: Number, width: Number, rates: Rates) -> Number:
    """Return how much longer small products take than their arithmetic.

    A device computes a product in waves of tiles, the last of which is partly empty: a loss that decreases with the
    number of tiles, which is proportional to the product's area. Narrow matrices also have short inner sums.
    """
    width = np.maximum(width, 1)
    return 1 + rates.narrow_width / width + rates.small_area / (tokens * width)


def _attention_time(job: TrainingJob, rates: Rates, tokens: Number) -> tuple[Number, Number]:
    """Return the time of the scores and their weighted sum, forward and backward."""
    model, layout, machine, framework = job.model, job.layout, job.machine, job.framework
    # Kernels that do not skip masked tiles compute a window's too.
    shown = 1 - framework.skips_masked * (1 - 0.5 * model.share_of_keys)
    seen = model.seq_length * shown
    flops = 4 * tokens * seen * model.query_width / layout.tp
    scores = tokens * model.seq_length * model.num_attention_heads / layout.tp
    rate = machine.attention_flops * rates.attention * rates.attention_kernel
    product = flops / (machine.attention_flops * rates.gemm_16bit)
    per_byte = scores / (machine.memory_rate * rates.memory)
    writes = framework.materialises_scores > 0
    forward = np.where(writes, product + SCORE_BYTES * per_byte, flops / rate)
    backward = np.where(writes, BACKWARD * product + SCORE_BYTES_BACKWARD * per_byte, BACKWARD_ATTENTION * flops / rate)
    return forward, backward


def _pass_time(job: TrainingJob, rates: Rates, tokens: Number) -> Number:
    """Norms, rotary embedding, activation, residuals, dropout; with low precision also the rounding of inputs."""
    model, layout, machine = job.model, job.layout, job.machine
    share = model.share_of_moe_layers
    hidden = (10 + 2 * model.dropout_masks) * model.hidden_size / np.where(layout.sequence_parallel > 0, layout.tp, 1)
    widths = 2 * (model.query_width + model.key_value_width)
    mlp = (1 - share) * model.ffn_hidden_size
    mlp = mlp + share * (model.experts_per_token * model.expert_width + model.shared_width)
    of_experts = share * model.experts_per_token * model.expert_width
    copies = share * model.experts_per_token * model.hidden_size
    moved = 6 * copies  # permuted, and back
    # A fused kernel of experts rounds what it reads and writes, and is taken to save half of the other passes.
    fused = job.framework.fuses_experts
    saved = fused * (model.num_mlp_matrices * of_experts + moved) / 2
    inside = (widths + model.num_mlp_matrices * mlp + moved - saved) / layout.tp
    rounded = model.hidden_size + mlp + copies - fused * (of_experts + copies)
    rounding = np.where(machine.low_precision > 0, 3 * rounded / layout.tp, 0)
    values = hidden + inside + rounding
    bytes_moved = tokens * values * layout.weight_bytes * job.framework.unfused
    return bytes_moved / (machine.memory_rate * rates.memory)


def _accumulation_time(job: TrainingJob, rates: Rates) -> Number:
    """Return the time to accumulate one micro batch's gradients of a layer."""
    model, layout, machine = job.model, job.layout, job.machine
    share = model.share_of_moe_layers
    dense = model.attention_parameters + (1 - share) * model.dense_mlp_parameters + share * model.shared_mlp_parameters
    experts = share * model.num_experts * model.parameters_of_expert / (layout.ep * layout.etp)
    bytes_moved = (
        (dense / layout.tp + experts) * (layout.weight_bytes + 2 * layout.gradient_bytes) * model.trained_share
    )
    return bytes_moved / (machine.memory_rate * rates.memory)


def head_time(job: TrainingJob, rates: Rates) -> Number:
    """Predict the time of output layer and loss for one micro batch, forward and backward."""
    model, layout, machine = job.model, job.layout, job.machine
    tokens = layout.micro_batch_size * model.seq_length / layout.cp
    logits = tokens * model.has_output_layer * model.target_share * model.vocab_size / layout.tp
    # The output layer remains in 16 bits where other products are in fp8.
    backward = BACKWARD - model.is_frozen
    products = 2 * (1 + backward) * logits * model.hidden_size / (machine.attention_flops * rates.gemm_16bit)
    return products + logits * LOGIT_PASS_BYTES / (machine.memory_rate * rates.memory)


def _optimizer_time(job: TrainingJob, rates: Rates) -> Number:
    layout, machine = job.layout, job.machine
    dense, experts = parameters_of_device(job)
    shards = np.maximum(layout.optimizer_shards, 1)
    expert_shards = np.where(layout.zero_stage > 0, layout.expert_shards, 1)
    updated = (dense / shards + experts / expert_shards) * job.model.trained_share
    rate = np.where(layout.offload > 0, machine.memory_rate / 40, machine.memory_rate * rates.memory)
    return updated * ADAM_BYTES / rate
