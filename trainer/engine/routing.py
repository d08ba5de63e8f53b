"""Sum the routing of experts in a step over all ranks. e: experts of a layer."""

from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed

from trainer.model.moe import find_routers
from trireme.records import LayerRouting


def sum_routing(
    chunks: Sequence[GPTModel], *, num_microbatches: int, groups: ProcessGroupCollection, device: torch.device
) -> tuple[LayerRouting, ...] | None:
    """Sum the routers' statistics of a step, the same on every rank; None for a dense model.

    Every token is seen by one rank of a pipeline stage: tensor parallelism with experts splits sequences.
    """
    config = chunks[0].config
    if config.num_moe_experts is None:
        return None
    accounts = torch.zeros(config.num_layers, 2 + config.num_moe_experts, dtype=torch.float64, device=device)
    for layer_number, router in find_routers(chunks):
        account = router.take_account()
        if account is not None:
            accounts[layer_number - 1] = account
    distributed.all_reduce(accounts)
    ranks_of_sequence = groups.tp_cp.size()
    micro_batches = groups.dp.size() * num_microbatches
    has_balance = config.moe_router_load_balancing_type != "none" and config.moe_aux_loss_coeff > 0
    has_z_loss = config.moe_z_loss_coeff is not None
    layers = []
    for index, (balance, z_loss, *tokens) in enumerate(accounts.tolist()):
        if (total := sum(tokens)) > 0:
            layers.append(
                LayerRouting(
                    layer=index + 1,
                    load_balancing_loss=balance / micro_batches if has_balance else None,
                    z_loss=z_loss / (micro_batches * ranks_of_sequence) if has_z_loss else None,
                    expert_load=tuple(count / total for count in tokens),
                )
            )
    return tuple(layers)
