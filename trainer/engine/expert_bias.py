"""Keep the biases with which routers choose experts: they follow the experts' loads, without a gradient.

e: experts of a layer.
"""

from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection

from trainer.engine.base import OptimizerFragment
from trainer.model.moe import find_routers
from trainer.model.sharding import describe_buffers
from trireme.records import LayerRouting


@torch.no_grad()
def update_expert_biases(chunks: Sequence[GPTModel], routing: Sequence[LayerRouting] | None) -> None:
    """Raise the biases of experts with less than the mean load of a step, and lower those of the others.

    Loads are the same on every rank, and so are the biases. Does nothing in models without them, nor with frozen
    routers, whose biases belong to the frozen weights.

    Args:
        routing: of the step's global batch.
    Source: Wang et al. 2024 (arXiv:2408.15664), algorithm 1.
    """
    config = chunks[0].config
    if not config.moe_router_enable_expert_bias or routing is None:
        return
    loads = {layer.layer: layer.expert_load for layer in routing}
    for layer_number, router in find_routers(chunks):
        router.local_tokens_per_expert.zero_()  # Megatron-Core's count, of this rank's tokens
        if layer_number not in loads or not router.weight.requires_grad:
            continue
        load = torch.tensor(loads[layer_number], dtype=torch.float64)
        missing = 1 - load * len(load)
        missing[missing.abs() < 1e-9] = 0.0  # an expert with the mean load, but for rounding
        step = config.moe_router_bias_update_rate * missing.sign()
        router.expert_bias += step.to(router.expert_bias)


def expert_bias_fragments(chunks: Sequence[GPTModel], *, groups: ProcessGroupCollection) -> list[OptimizerFragment]:
    """Return the biases as a checkpoint holds them: values without optimizer state, the same on data-parallel ranks."""
    if not chunks[0].config.moe_router_enable_expert_bias:
        return []
    if not all(router.weight.requires_grad for _, router in find_routers(chunks)):
        return []
    return [
        OptimizerFragment(
            sharded=sharded,
            flat_start=0,
            num_elements=sharded.parameter.numel(),
            states={"param": sharded.parameter.data.view(-1)},
            is_owner=groups.dp_cp.rank() == 0,
        )
        for sharded in describe_buffers(chunks)
    ]
