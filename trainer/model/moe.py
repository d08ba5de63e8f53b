"""Build mixture-of-experts layers: Megatron-Core's MoE layer with sequential experts, and a router with statistics.

t: tokens of a micro batch on this rank, e: experts of a layer, h: hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler, z_loss_func
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers
from trainer.config.parallel import ParallelConfig
from trainer.model.lora import mark_expert_gradients


class Router(TopKRouter):
    """Megatron-Core's router with statistics of its decisions since the last `take_account`.

    Megatron-Core keeps losses in a global table, and does not keep loads. Passes without gradients do not count:
    neither validation nor the first of two passes over a recomputed layer.
    """

    def __init__(
        self, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None, **others: Any
    ) -> None:
        super().__init__(config=config, pg_collection=pg_collection, **others)
        self._account: torch.Tensor | None = None

    def take_account(self) -> torch.Tensor | None:
        """Return the sums over micro batches and reset them; None if there was no pass with gradients.

        Returns:
            [2 + e] fp64: this rank's part of the load-balancing loss (its sum over tensor- and context-parallel ranks
            is the loss of a micro batch), its mean z-loss (which those ranks average), its tokens by expert.
        """
        account, self._account = self._account, None
        return account

    def routing(
        self, logits: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts: logits [s, b, e] to weights [t, e], 0 for experts not chosen, and choices [t, e] bool."""
        weights, chosen = super().routing(logits, padding_mask)
        if self.training and torch.is_grad_enabled():
            self._open_account(logits)[2:] += chosen.sum(dim=0)
        return weights, chosen

    def attach_and_log_load_balancing_loss(
        self, activation: torch.Tensor, aux_loss_coeff: float, aux_loss: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Attach the loss to `activation`, so that its gradient is computed in the same backward pass.

        Args:
            aux_loss: this rank's part, times `aux_loss_coeff`.
        """
        self._open_account(activation)[0] += aux_loss.detach() / aux_loss_coeff
        attached: torch.Tensor = MoEAuxLossAutoScaler.apply(activation, aux_loss)
        return attached

    def apply_z_loss(self, logits: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attach the z-loss, the mean square of logsumexp over a micro batch, to logits [t, e].

        Source: Zoph et al. 2022 (ST-MoE, arXiv:2202.08906), equation 5.
        """
        coefficient = self.config.moe_z_loss_coeff
        if coefficient is None or not self.training or not torch.is_grad_enabled():
            return logits
        loss = z_loss_func(logits, 1.0, padding_mask=padding_mask)
        self._open_account(logits)[1] += loss.detach()
        # Ranks that share the micro batch have equal parts of it: their mean is the loss.
        attached: torch.Tensor = MoEAuxLossAutoScaler.apply(logits, loss * (coefficient / self.tp_cp_group.size()))
        return attached

    def _open_account(self, like: torch.Tensor) -> torch.Tensor:
        if self._account is None:
            self._account = torch.zeros(2 + self.num_experts, dtype=torch.float64, device=like.device)
        return self._account


class Experts(SequentialMLP):
    """Megatron-Core's experts, with weights that are marked with the ranks over which their gradients are summed.

    Megatron-Core marks weights as experts' with expert parallelism only, but tensor-parallel ranks with whole experts
    also hold replicas that process different tokens. It also marks biases as split along the sequence, and would sum
    their gradients twice.
    """

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        submodules: MLPSubmodules,
        pg_collection: ProcessGroupCollection | None = None,
        **others: Any,
    ) -> None:
        super().__init__(num_local_experts, config, submodules, pg_collection=pg_collection, **others)
        assert pg_collection is not None
        is_laid_out_as_others = pg_collection.ep.size() == 1 and pg_collection.expt_tp.size() == pg_collection.tp.size()
        for parameter in self.parameters():
            parameter.allreduce = is_laid_out_as_others
            parameter.sequence_parallel = False
        mark_expert_gradients(self, expert_tp_size=pg_collection.expt_tp.size())
        if pg_collection.expt_tp.size() == 1:
            # A whole expert has nothing to reduce. Megatron-Core still passes its output through a function without
            # effect, and then cannot add a bias in place.
            for expert in self.local_experts:
                expert.linear_fc1.explicit_expert_comm = expert.linear_fc2.explicit_expert_comm = True


def build_moe_spec(*, expert: MLPSubmodules, shared_expert: MLPSubmodules) -> ModuleSpec:
    """Build the specification that replaces the MLP: router, experts of torch kernels, and optional shared experts."""
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            router=Router,
            experts=ModuleSpec(module=Experts, submodules=expert),
            shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=shared_expert),
        ),
    )


def moe_settings(model: ModelConfig, *, parallel: ParallelConfig) -> dict[str, Any]:
    """Translate the settings of experts into arguments of Megatron-Core's TransformerConfig."""
    settings: dict[str, Any] = {
        "expert_model_parallel_size": parallel.expert_model_parallel_size,
        "expert_tensor_parallel_size": parallel.expert_tensor_parallel_size or parallel.tensor_model_parallel_size,
    }
    if model.num_moe_experts is None:
        return settings
    layers = [int(has_experts) for has_experts in find_moe_layers(model)]
    is_balanced = model.moe_router_load_balancing_type != "none"
    return settings | {
        "num_moe_experts": model.num_moe_experts,
        # Megatron-Core names weights by their layer if layers differ, which a list implies.
        "moe_layer_freq": 1 if all(layers) else layers,
        "moe_ffn_hidden_size": find_expert_width(model),
        "moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size,
        "moe_shared_expert_gate": model.moe_shared_expert_gate,
        "moe_router_topk": model.moe_router_topk,
        "moe_router_score_function": model.moe_router_score_function,
        "moe_router_pre_softmax": model.moe_router_pre_softmax,
        "moe_router_num_groups": model.moe_router_num_groups,
        "moe_router_group_topk": model.moe_router_group_topk,
        "moe_router_enable_expert_bias": model.moe_router_enable_expert_bias,
        "moe_router_bias_update_rate": model.moe_router_bias_update_rate,
        "moe_router_topk_scaling_factor": model.moe_router_topk_scaling_factor,
        "moe_router_dtype": model.moe_router_dtype,
        "moe_router_load_balancing_type": model.moe_router_load_balancing_type,
        "moe_aux_loss_coeff": model.moe_aux_loss_coeff if is_balanced else 0.0,
        "moe_z_loss_coeff": model.moe_z_loss_coeff,
        "moe_token_dispatcher_type": parallel.moe_token_dispatcher_type,
    }


def find_routers(chunks: Sequence[GPTModel]) -> Iterator[tuple[int, Router]]:
    """Yield every router of these chunks with the number of its layer, from 1."""
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            if layer.is_moe_layer:
                yield layer.layer_number, layer.mlp.router
