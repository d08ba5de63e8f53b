"""Build the specification of transformer layers: the `torch` one, or Transformer Engine's if it is configured."""

from functools import partial
from typing import Literal

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from trainer.model.attention import SdpaCoreAttention
from trainer.model.causal_mask import CausalMasks
from trainer.model.kernels import Kernels
from trainer.model.megatron_versions import activation_for_mlp, dense_mlp
from trainer.model.moe import build_moe_spec
from trainer.model.norm import TorchNorm


class OutputLinear(RowParallelLinear):
    """RowParallelLinear that returns its bias as a view.

    Everything that a recomputed MLP returns becomes an output of the recomputation, even a parameter itself, whose
    gradient would then recurse into the same computation infinitely.
    """

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [..., f / tp_size] as [..., h], and the bias, which is added later."""
        output, bias = super().forward(input_)
        return output, None if bias is None else bias.view_as(bias)


def build_block_submodules(
    config: TransformerConfig,
    *,
    implementation: Literal["torch", "transformer_engine"],
    pp_rank: int,
    vp_stage: int | None,
    kernels: Kernels,
) -> TransformerBlockSubmodules | ModuleSpec:
    """Build the specification of one model chunk's transformer block.

    Args:
        pp_rank: pipeline stage, which determines how many layers the chunk has.
        vp_stage: number of the stage's chunk, or None if a stage has one.
        kernels: implementations of the `torch` specification's element-wise operations.
    """
    if implementation == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    layers = _torch_layer_specs(config, masks=CausalMasks(), kernels=kernels)
    first = get_transformer_layer_offset(config, vp_stage, pp_rank)
    end = first + get_num_layers_to_build(config, vp_stage, pp_rank)
    return TransformerBlockSubmodules(layer_specs=layers[first:end], layer_norm=_norm_spec(kernels))


def _torch_layer_specs(config: TransformerConfig, *, masks: CausalMasks, kernels: Kernels) -> list[ModuleSpec]:
    """Return the specification of every layer of the model: equal ones, except for those with experts."""
    with_mlp, with_experts = (
        _torch_layer_spec(
            qk_layernorm=config.qk_layernorm,
            is_gated=config.gated_linear_unit,
            has_experts=has_experts,
            masks=masks,
            kernels=kernels,
        )
        for has_experts in (False, True)
    )
    if config.num_moe_experts is None:
        return [with_mlp] * config.num_layers
    if isinstance(config.moe_layer_freq, int):
        return [with_experts] * config.num_layers
    return [with_experts if has_experts else with_mlp for has_experts in config.moe_layer_freq]


def _norm_spec(kernels: Kernels) -> ModuleSpec:
    return ModuleSpec(
        module=TorchNorm, params={"kernels": {"RMSNorm": kernels.rms_norm, "LayerNorm": kernels.layer_norm}}
    )


def _torch_layer_spec(
    *, qk_layernorm: bool, is_gated: bool, has_experts: bool, masks: CausalMasks, kernels: Kernels
) -> ModuleSpec:
    """Return one decoder layer of torch kernels between Megatron-Core's tensor-parallel linear layers.

    The key map gives the norms the checkpoint names of Transformer Engine's fused layers, so both specifications read
    the same checkpoint. Before experts, which are not fused, the norm has its own name.
    """
    norm = _norm_spec(kernels)
    activation = activation_for_mlp(kernels.swiglu if is_gated else None)
    mlp = dense_mlp(MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=OutputLinear, activation_func=activation))
    keys_map = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    if not has_experts:
        keys_map["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=partial(SdpaCoreAttention, masks=masks),
                    linear_proj=RowParallelLinear,
                    q_layernorm=norm if qk_layernorm else IdentityOp,
                    k_layernorm=norm if qk_layernorm else IdentityOp,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=build_moe_spec(activation=activation) if has_experts else mlp,
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=keys_map,
        ),
    )


def torch_dtype(name: Literal["fp32", "bf16", "fp16"]) -> torch.dtype:
    """Return the torch dtype of a precision name."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
