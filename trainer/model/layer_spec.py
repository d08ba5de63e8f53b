"""Build the specification of transformer layers: the `torch` one, or Transformer Engine's if it is configured."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from trainer.config.lora import LoraConfig, LoraTarget
from trainer.config.model import ModelConfig, find_moe_layers, find_windows
from trainer.model.attention import SdpaCoreAttention
from trainer.model.forward_only import ColumnLinear, RowLinear, ShortTransformerLayer
from trainer.model.kernels import Kernels
from trainer.model.key_intervals import IntervalMasks
from trainer.model.lora import LoraColumnLinear, LoraRowLinear, LowRank, Parts
from trainer.model.megatron_versions import activation_for_mlp, dense_mlp
from trainer.model.moe import build_moe_spec
from trainer.model.norm import AllHeadsNorm, TorchNorm
from trainer.model.residual import NormedAdd
from trainer.model.rotary_tables import attention_factor, latent_score_factor
from trainer.model.self_attention import LatentSelfAttention, RotarySelfAttention


class OutputLinear(RowLinear):
    """RowLinear that returns its bias as a view.

    Everything that a recomputed MLP returns becomes an output of the recomputation, even a parameter itself, whose
    gradient would then recurse into the same computation infinitely.
    """

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [..., f / tp_size] as [..., h], and the bias, which is added later."""
        output, bias = super().forward(input_)
        return output, None if bias is None else bias.view_as(bias)


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Hold in what the layers of one model differ."""

    has_experts: bool
    window: int | None
    """Keys that a query sees; None does not limit them."""
    has_input_norm: bool
    rotary_kind: int | None
    """Row of the stacked rotary angles; None if the model has one kind."""


def find_layer_shapes(model: ModelConfig) -> list[LayerShape]:
    """Return the shape of every layer, from the first."""
    has_pre_norm = model.norm_placement in ("pre", "both")
    return [
        LayerShape(
            has_experts=has_experts,
            window=window,
            has_input_norm=has_pre_norm and not (model.skip_first_layernorm and layer == 0),
            rotary_kind=None if model.rotary_base_local is None else int(window is not None),
        )
        for layer, (has_experts, window) in enumerate(zip(find_moe_layers(model), find_windows(model), strict=True))
    ]


def build_block_submodules(
    config: TransformerConfig,
    *,
    model: ModelConfig,
    pp_rank: int,
    vp_stage: int | None,
    kernels: Kernels,
    lora: LoraConfig,
) -> TransformerBlockSubmodules | ModuleSpec:
    """Build the specification of one model chunk's transformer block.

    Args:
        config: Megatron-Core's, of the same model.
        pp_rank: pipeline stage, which determines how many layers the chunk has.
        vp_stage: number of the stage's chunk, or None if a stage has one.
        kernels: implementations of the `torch` specification's element-wise operations.
        lora: adapters of the linear layers.
    """
    if model.transformer_impl == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    builder = _LayerBuilder(config, model=model, kernels=kernels, lora=lora)
    shapes = find_layer_shapes(model)
    specs = {shape: builder.build(shape) for shape in dict.fromkeys(shapes)}
    layers = [specs[shape] for shape in shapes]
    first = get_transformer_layer_offset(config, vp_stage, pp_rank)
    end = first + get_num_layers_to_build(config, vp_stage, pp_rank)
    has_final_norm = model.norm_placement != "sum"
    return TransformerBlockSubmodules(
        layer_specs=layers[first:end], layer_norm=builder.norm if has_final_norm else IdentityOp
    )


def norm_spec(model: ModelConfig, kernels: Kernels) -> ModuleSpec:
    """Return the specification of a model's norms."""
    forms = {"RMSNorm": kernels.rms_norm, "LayerNorm": kernels.layer_norm}
    return ModuleSpec(module=TorchNorm, params={"kernels": forms, "has_bias": model.layernorm_bias})


class _LayerBuilder:
    """Build decoder layers of torch kernels between Megatron-Core's tensor-parallel linear layers."""

    def __init__(self, config: TransformerConfig, *, model: ModelConfig, kernels: Kernels, lora: LoraConfig) -> None:
        self.config, self.model, self.lora = config, model, lora
        self.masks = IntervalMasks()
        self.norm = norm_spec(model, kernels)
        self.activation = activation_for_mlp(kernels.gated_activation(model.activation))

    def build(self, shape: LayerShape) -> ModuleSpec:
        """Build one layer.

        The key map gives the norms the checkpoint names of Transformer Engine's fused layers, so both specifications
        read the same checkpoint. Before experts, which are not fused, the norm has its own name.
        """
        keys_map = {
            "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
            "self_attn_bda.norm.": "post_self_attn_layernorm.",
            "mlp_bda.norm.": "post_mlp_layernorm.",
        }
        if self.model.multi_latent_attention:
            del keys_map["input_layernorm."]
        if not shape.has_experts:
            keys_map["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
        has_pre_norm = self.model.norm_placement in ("pre", "both")
        mlp = self._mlp()
        return ModuleSpec(
            module=ShortTransformerLayer,
            submodules=TransformerLayerSubmodules(
                input_layernorm=self.norm if shape.has_input_norm else IdentityOp,
                self_attention=self._attention(shape),
                self_attn_bda=self._add(),
                pre_mlp_layernorm=self.norm if has_pre_norm else IdentityOp,
                mlp=self._experts() if shape.has_experts else dense_mlp(mlp),
                mlp_bda=self._add(),
                sharded_state_dict_keys_map=keys_map,
            ),
        )

    def _mlp(self) -> MLPSubmodules:
        return MLPSubmodules(
            linear_fc1=self._adapted("linear_fc1", ColumnLinear, parts="gated" if self.model.is_gated else "one"),
            linear_fc2=self._adapted("linear_fc2", OutputLinear),
            activation_func=self.activation,
        )

    def _experts(self) -> ModuleSpec:
        parts: Parts = "gated" if self.model.is_gated else "one"

        def expert(prefix: Literal["", "experts."]) -> MLPSubmodules:
            first: LoraTarget = "experts.linear_fc1" if prefix else "linear_fc1"
            second: LoraTarget = "experts.linear_fc2" if prefix else "linear_fc2"
            return MLPSubmodules(
                linear_fc1=self._adapted(first, ColumnParallelLinear, parts=parts),
                linear_fc2=self._adapted(second, RowParallelLinear),
                activation_func=self.activation,
            )

        return build_moe_spec(expert=expert("experts."), shared_expert=expert(""))

    def _adapted(self, name: LoraTarget, plain: type, *, parts: Parts = "one") -> Any:
        """Return a linear layer, with an adapter if there is one of this name."""
        if not self.lora.is_on or name not in self.lora.target_modules:
            return plain
        low_rank = LowRank(
            rank=self.lora.rank,
            scale=self.lora.scale,
            dropout=self.lora.dropout,
            parts=parts,
            is_shared=not self.lora.separate_projections,
        )
        kind = LoraColumnLinear if issubclass(plain, ColumnParallelLinear) else LoraRowLinear
        return ModuleSpec(module=kind, params={"lora": low_rank})

    def _add(self) -> Any:
        """Return the specification of what adds a branch to the residual stream."""
        if self.model.norm_placement == "pre":
            return get_bias_dropout_add
        placement = "sum" if self.model.norm_placement == "sum" else "branch"
        return ModuleSpec(module=NormedAdd, params={"config": self.config, "norm": self.norm, "placement": placement})

    def _attention(self, shape: LayerShape) -> ModuleSpec:
        core: dict[str, Any] = {
            "masks": self.masks,
            "window": shape.window,
            "is_causal": self.model.attention_mask == "causal",
            "softcapping": self.model.attn_logit_softcapping,
        }
        params: dict[str, Any] = {"attn_mask_type": AttnMaskType.causal}
        if self.model.multi_latent_attention:
            factors = {
                "score_factor": latent_score_factor(self.model),
                "rotary_factor": attention_factor(self.model),
            }
            return ModuleSpec(
                module=LatentSelfAttention,
                params=params | factors | self._down_projections(),
                submodules=MLASelfAttentionSubmodules(
                    linear_q_proj=self._adapted("linear_q_proj", ColumnLinear),
                    # Megatron-Core knows its own class by name here.
                    linear_q_down_proj=ColumnParallelLinear,
                    linear_q_up_proj=self._adapted("linear_q_up_proj", ColumnLinear),
                    linear_kv_down_proj=ColumnParallelLinear,
                    linear_kv_up_proj=self._adapted("linear_kv_up_proj", ColumnLinear),
                    core_attention=ModuleSpec(module=SdpaCoreAttention, params=core),
                    linear_proj=self._adapted("linear_proj", RowLinear),
                    q_layernorm=self.norm,
                    kv_layernorm=self.norm,
                ),
            )
        return ModuleSpec(
            module=RotarySelfAttention,
            params=params | {"rotary_kind": shape.rotary_kind},
            submodules=SelfAttentionSubmodules(
                linear_qkv=self._adapted("linear_qkv", ColumnLinear, parts="qkv"),
                core_attention=partial(SdpaCoreAttention, **core),
                linear_proj=self._adapted("linear_proj", RowLinear),
                q_layernorm=self._head_norm(self.model.num_attention_heads),
                k_layernorm=self._head_norm(self.model.num_query_groups),
            ),
        )

    def _down_projections(self) -> dict[str, Any]:
        """Return the adapted down projections of multi-latent attention, which replace Megatron-Core's."""
        names: tuple[LoraTarget, ...] = ("linear_q_down_proj", "linear_kv_down_proj")
        specs = {name: self._adapted(name, ColumnParallelLinear) for name in names}
        return {"down_projections": {name: spec for name, spec in specs.items() if isinstance(spec, ModuleSpec)}}

    def _head_norm(self, num_heads: int) -> Any:
        if not self.model.qk_layernorm:
            return IdentityOp
        if self.model.qk_layernorm_width == "head":
            return self.norm
        return ModuleSpec(module=AllHeadsNorm, params={"num_heads": num_heads})


def torch_dtype(name: Literal["fp32", "bf16", "fp16"]) -> torch.dtype:
    """Return the torch dtype of a precision name."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
