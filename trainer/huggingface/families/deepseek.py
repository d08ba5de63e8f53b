"""Map DeepSeek-V3: multi-latent attention, sigmoid routing with a bias and groups, shared experts."""

from typing import Any

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.decoder import LAYER, decoder_names, gated_names, read_decoder, write_decoder
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.tensor_map import Names, Same

_BEST_PER_GROUP = 2
"""A group's score is the sum of its two best experts'; Megatron-Core takes moe_router_topk / moe_router_group_topk."""


def _read(reader: ConfigReader) -> Fields:
    reader.must_be("rms_norm_eps", 1e-6, reason="the norms inside attention have 1e-6 whatever it is")
    fields = read_decoder(reader, num_positions=4096)
    reader.ignore("head_dim", "qk_head_dim", "num_nextn_predict_layers", "num_mtp_layers", "first_k_dense_replace")
    reader.must_be("attention_bias", False, reason="the projections have no biases")
    reader.must_be("rope_interleave", True, reason="rotary channels are stored as pairs")
    return {
        **fields,
        **_read_experts(reader, num_layers=fields["num_layers"]),
        "kv_channels": None,
        "num_query_groups": fields["num_attention_heads"],
        "multi_latent_attention": True,
        "q_lora_rank": reader.optional_count("q_lora_rank", 1536),
        "kv_lora_rank": reader.count("kv_lora_rank", 512),
        "qk_head_dim": reader.count("qk_nope_head_dim", 128),
        "qk_pos_emb_head_dim": reader.count("qk_rope_head_dim", 64),
        "v_head_dim": reader.count("v_head_dim", 128),
    }


def _read_experts(reader: ConfigReader, *, num_layers: int) -> Fields:
    reader.must_be("moe_layer_freq", 1, reason="all layers after the first dense ones have experts")
    reader.must_be("scoring_func", "sigmoid", reason="experts are scored so")
    reader.must_be("topk_method", "noaux_tc", reason="experts are chosen so")
    reader.must_be("norm_topk_prob", True, reason="sigmoid weights are divided by their sum")
    num_dense = reader.integer("first_k_dense_replace", 3)
    topk, num_shared = reader.count("num_experts_per_tok", 8), reader.integer("n_shared_experts", 1)
    num_groups, group_topk = reader.count("n_group", 8), reader.count("topk_group", 4)
    if num_groups > 1 and topk // max(group_topk, 1) != _BEST_PER_GROUP:
        reader.refuse("topk_group", f"must be num_experts_per_tok / {_BEST_PER_GROUP} = {topk // _BEST_PER_GROUP}")
    width = reader.count("moe_intermediate_size", 2048)
    has_experts = [int(layer >= num_dense) for layer in range(num_layers)]
    if not any(has_experts):
        reader.refuse("first_k_dense_replace", "leaves no layer with experts")
    return {
        "num_moe_experts": reader.count("n_routed_experts", 256),
        "moe_layer_freq": [1] if all(has_experts) else has_experts,
        "moe_ffn_hidden_size": width,
        "moe_shared_expert_intermediate_size": width * num_shared if num_shared else None,
        "moe_router_topk": topk,
        "moe_router_score_function": "sigmoid",
        "moe_router_topk_scaling_factor": reader.number("routed_scaling_factor", 2.5),
        "moe_router_enable_expert_bias": True,
        "moe_router_num_groups": num_groups if num_groups > 1 else None,
        "moe_router_group_topk": group_topk if num_groups > 1 else None,
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    width = find_expert_width(model)
    layers = find_moe_layers(model)
    keys = {
        **write_decoder(model),
        "attention_bias": False,
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_nope_head_dim": model.qk_head_dim,
        "qk_rope_head_dim": model.qk_pos_emb_head_dim,
        "v_head_dim": model.v_head_dim,
        "moe_layer_freq": 1,
        "first_k_dense_replace": layers.index(True) if any(layers) else len(layers),
        "n_routed_experts": model.num_moe_experts,
        "n_shared_experts": (model.moe_shared_expert_intermediate_size or 0) // width,
        "moe_intermediate_size": width,
        "num_experts_per_tok": model.moe_router_topk,
        "n_group": model.moe_router_num_groups or 1,
        "topk_group": model.moe_router_group_topk or 1,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "routed_scaling_factor": model.moe_router_topk_scaling_factor or 1.0,
        "num_nextn_predict_layers": 0,
    }
    del keys["head_dim"]
    return keys


def _names(model: ModelConfig) -> Names:
    attention, moe = LAYER + "self_attn.", LAYER + "mlp."
    # Heads are grouped and fused otherwise: these names have other meanings here.
    dropped = ("self_attention.linear_qkv.", "self_attention.q_layernorm.", "self_attention.k_layernorm.")
    return {
        **{name: mapped for name, mapped in decoder_names(model).items() if not name.startswith(dropped)},
        "input_layernorm.weight": Same(name=LAYER + "input_layernorm.weight"),
        "self_attention.linear_q_proj.weight": Same(name=attention + "q_proj.weight"),
        "self_attention.linear_q_down_proj.weight": Same(name=attention + "q_a_proj.weight"),
        "self_attention.q_layernorm.weight": Same(name=attention + "q_a_layernorm.weight"),
        "self_attention.linear_q_up_proj.weight": Same(name=attention + "q_b_proj.weight"),
        "self_attention.linear_kv_down_proj.weight": Same(name=attention + "kv_a_proj_with_mqa.weight"),
        "self_attention.kv_layernorm.weight": Same(name=attention + "kv_a_layernorm.weight"),
        "self_attention.linear_kv_up_proj.weight": Same(name=attention + "kv_b_proj.weight"),
        "mlp.router.weight": Same(name=moe + "gate.weight"),
        "mlp.router.expert_bias": Same(name=moe + "gate.e_score_correction_bias"),
        **gated_names("mlp.experts.experts.", moe + "experts.{expert}."),
        **gated_names("mlp.shared_experts.", moe + "shared_experts."),
    }


DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    peft_moves_mlps=True,
    architecture="DeepseekV3ForCausalLM",
    names=_names,
    read=_read,
    write=_write,
    unused_tensors=("rotary_emb.inv_freq",),
    may_have_later_layers=True,
)
