"""What devices send each other, and how much of it computing does not hide."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from launch.plan.arrays import Number
from launch.plan.job import Job
from launch.plan.rates import Rates

if TYPE_CHECKING:
    from launch.plan.step_time import LayerTime


@dataclass(frozen=True, kw_only=True)
class LayerExchange:
    """Exposed seconds of one layer and micro batch, forward and backward."""

    tensor: Number
    context: Number
    expert: Number


def per_layer(job: Job, rates: Rates, *, layer: "LayerTime") -> LayerExchange:
    """Collectives inside layers."""
    model, layout, framework = job.model, job.layout, job.framework
    hidden = layout.micro_batch_size * model.seq_length / layout.cp * model.hidden_size * layout.weight_bytes
    # Two all-reduces forward and two backward (or as many pairs of gather and scatter), two more when computed again.
    times = 4 + 2 * layout.recomputed_share
    tensor_rate = _rate_of_group(job, rates, ranks=layout.tp, stride=1)
    tensor = times * 2 * _ring(layout.tp) * hidden / tensor_rate * (1 - framework.hides_tensor_parallel)

    keys = hidden / model.hidden_size * model.key_value_width / layout.tp
    context_rate = _rate_of_group(job, rates, ranks=layout.cp, stride=layout.tp)
    # Keys and values forward, again and their gradients backward.
    ring = 3 * (layout.cp - 1) * keys / context_rate
    context = _exposed(ring, layer.attention + layer.attention_backward, framework.hides_context)

    tokens_sent = hidden / np.where(layout.sequence_parallel > 0, layout.tp, 1)
    # Dispatch and combine, forward and backward.
    expert = model.share_of_moe_layers * times * tokens_sent * _seconds_per_sent_byte(job, rates)
    return LayerExchange(tensor=tensor, context=np.where(layout.cp > 1, context, 0), expert=expert)


def _seconds_per_sent_byte(job: Job, rates: Rates) -> Number:
    """Time to send a token to its experts, which lie anywhere among the ranks of expert parallelism."""
    model, layout, machine = job.model, job.layout, job.machine
    domains = np.maximum(layout.ep * layout.etp / machine.link_domain, 1)
    copies = model.experts_per_token
    elsewhere = (domains - 1) / domains
    # Distinct other domains among the experts of a token, where a domain gets it once and passes it on inside.
    distinct = (domains - 1) * (1 - elsewhere ** np.maximum(copies, 1) * domains / np.maximum(domains, 1))
    outside = np.where(job.framework.sends_once > 0, np.minimum(distinct, copies * elsewhere), copies * elsewhere)
    inside = copies * _ring(layout.ep) - np.where(job.framework.sends_once > 0, 0, outside)
    link, network = machine.link_rate * rates.link, machine.network_rate * rates.network
    return np.maximum(inside, 0) / link + outside / network


def pipeline_time(job: Job, rates: Rates, *, layer_seconds: Number) -> Number:
    """Sends of activations and their gradients between stages."""
    model, layout, machine = job.model, job.layout, job.machine
    # Each tensor-parallel rank sends its part; the receivers gather within their domain (Narayanan et al. 2021, 4.1).
    sent = layout.micro_batch_size * model.seq_length / layout.cp * model.hidden_size * layout.weight_bytes / layout.tp
    inside = layout.num_devices <= machine.link_domain
    rate = np.where(inside, machine.link_rate * rates.link, machine.network_rate * rates.network)
    times = layout.num_microbatches + layout.pp - 1
    seconds = 2 * layout.vp * times * sent / rate * (1 - job.framework.hides_pipeline)
    return np.where(layout.pp > 1, seconds, 0)


def data_parallel_time(job: Job, rates: Rates, *, micro_batch_seconds: Number) -> Number:
    """Gradients summed and weights gathered over data- and context-parallel ranks."""
    layout, framework = job.layout, job.framework
    dense, experts = parameters_of_device(job)
    ranks = layout.dp * layout.cp
    rate = _rate_of_group(job, rates, ranks=ranks, stride=layout.tp)
    expert_ranks = layout.expert_shards
    expert_rate = _rate_of_group(job, rates, ranks=expert_ranks, stride=layout.ep * layout.etp)
    per_byte = dense * _ring(ranks) / rate + experts * _ring(expert_ranks) / expert_rate
    # Without sharding each rank updates all weights: gradients are reduced and gathered again, in their own format.
    reduce = per_byte * layout.gradient_bytes * np.where(layout.zero_stage > 0, 1, 2)
    # Weights are gathered among those that share the optimizer's state, which may be fewer.
    holders = np.minimum(layout.optimizer_shards, ranks)
    holder_rate = _rate_of_group(job, rates, ranks=holders, stride=layout.tp)
    gather = dense * _ring(holders) / holder_rate + experts * _ring(expert_ranks) / expert_rate
    gather = np.where(layout.zero_stage > 0, gather, 0) * layout.weight_bytes
    hides = framework.hides_gradients
    # Once per step: behind the last micro batch's backward pass, and the next step's first forward pass.
    once = _exposed(reduce, micro_batch_seconds * 2 / 3, hides) + _exposed(gather, micro_batch_seconds / 3, hides)
    # ZeRO-2 reduces every micro batch, ZeRO-3 also gathers weights for both passes.
    reduce_each = per_byte * layout.weight_bytes
    third = layout.num_microbatches * _exposed(reduce_each + 2 * gather, micro_batch_seconds, hides)
    second = layout.num_microbatches * _exposed(reduce_each, micro_batch_seconds * 2 / 3, hides) + gather
    by_rank = framework.gathers_per_rank * rates.rank_seconds * layout.optimizer_shards
    seconds = np.where(layout.zero_stage >= 3, third, np.where(layout.zero_stage == 2, second, once)) + by_rank
    return np.where(ranks > 1, seconds, 0)


def _exposed(seconds: Number, room: Number, hides: Number) -> Number:
    """What is left of a transfer of which a share may run beside computing that takes `room`."""
    return seconds - np.minimum(seconds, room) * hides


def parameters_of_device(job: Job) -> tuple[Number, Number]:
    """Parameters of the largest stage's device: dense ones and experts'."""
    model, layout = job.model, job.layout
    layers = np.ceil(model.num_layers / (layout.pp * layout.vp)) * layout.vp
    share = model.share_of_moe_layers
    per_layer = (
        model.attention_parameters + (1 - share) * model.dense_mlp_parameters + share * model.shared_mlp_parameters
    )
    tables = model.vocab_size * model.hidden_size
    tables = tables * np.where((layout.pp == 1) & (model.is_tied == 0), 2, 1)
    experts = share * model.num_experts * model.parameters_of_expert / (layout.ep * layout.etp)
    return (layers * per_layer + tables) / layout.tp, layers * experts


def _ring(ranks: Number) -> Number:
    """Share of a buffer that a ring collective sends over each link."""
    return (ranks - 1) / np.maximum(ranks, 1)


def _rate_of_group(job: Job, rates: Rates, *, ranks: Number, stride: Number) -> Number:
    """Bytes per second that each rank of a group sends in a ring.

    Args:
        stride: distance of neighbours in the group, in devices. Ranks of one domain share its network interfaces, of
            which each device has one.
    """
    machine = job.machine
    together = np.clip(machine.link_domain / stride, 1, np.maximum(ranks, 1))
    is_inside = ranks * stride <= machine.link_domain
    domains = np.maximum(ranks * stride / machine.link_domain, 1)
    slower = 1 + rates.straggling * np.log2(domains)
    outside = np.minimum(machine.link_rate * rates.link, together * machine.network_rate * rates.network) / slower
    return np.where(is_inside, machine.link_rate * rates.link, outside)
