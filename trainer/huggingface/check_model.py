"""Check a model read from a config.json by the rules of every model, and name the keys that its settings come from."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from trainer.config.model import ModelConfig
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trainer.huggingface.config_json import CONFIG_NAME, INVALID_FIX
from trireme.errors import Violation

_SCALING = ("rope_scaling", "rope_parameters")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "num_layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd"),
    "ffn_hidden_size": ("intermediate_size", "n_inner"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "num_query_groups": ("num_key_value_heads",),
    "kv_channels": ("head_dim",),
    "seq_length": ("max_position_embeddings", "n_positions"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size",),
    "num_tokentypes": ("type_vocab_size",),
    "norm_epsilon": ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps"),
    "rotary_base": ("rope_theta", "global_rope_theta", "rope_parameters"),
    "rotary_base_local": ("rope_local_base_freq", "local_rope_theta", "rope_parameters"),
    "rope_scaling_factor": _SCALING,
    "rope_original_max_position_embeddings": _SCALING,
    "rope_low_freq_factor": _SCALING,
    "rope_high_freq_factor": _SCALING,
    "yarn_beta_fast": _SCALING,
    "yarn_beta_slow": _SCALING,
    "yarn_attention_factor": _SCALING,
    "yarn_mscale": _SCALING,
    "yarn_mscale_all_dim": _SCALING,
    "window_size": ("sliding_window", "local_attention"),
    "softmax_scale": ("query_pre_attn_scalar",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "num_moe_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "moe_router_topk": ("num_experts_per_tok",),
    "moe_ffn_hidden_size": ("moe_intermediate_size", "intermediate_size"),
    "moe_shared_expert_intermediate_size": ("shared_expert_intermediate_size", "n_shared_experts"),
    "moe_router_num_groups": ("n_group",),
    "moe_router_group_topk": ("topk_group",),
    "moe_router_topk_scaling_factor": ("routed_scaling_factor",),
    "q_lora_rank": ("q_lora_rank",),
    "kv_lora_rank": ("kv_lora_rank",),
    "qk_head_dim": ("qk_nope_head_dim",),
    "qk_pos_emb_head_dim": ("qk_rope_head_dim",),
    "v_head_dim": ("v_head_dim",),
}
"""Keys that a field of the model may come from; the first one in the file is named, or the first where none is there,
since the family's value of an absent key may be what does not fit."""


def check_model(model: ModelConfig, content: Mapping[str, Any]) -> list[Violation]:
    """Report broken rules and numbers out of range.

    Args:
        content: of the config.json that the model was read from.
    """
    found = [
        dataclasses.replace(
            violation,
            path=_name(violation.path, content),
            message=re.sub(r"model\.\w+", lambda match: _name(match[0], content, prefix=""), violation.message),
            fix=INVALID_FIX,
        )
        # Whether a run can train this head is the run's matter.
        for violation in validate(TrainConfig(model=model), world_size=None, ignore={"model.head"})
        if violation.path.startswith("model.")
    ]
    # Two fields may come from one key.
    return list({violation.path: violation for violation in found}.values())


def _name(path: str, content: Mapping[str, Any], *, prefix: str = f"{CONFIG_NAME}: ") -> str:
    """Return the key that a field of the model comes from, or the field."""
    keys = _KEYS.get(path.removeprefix("model."))
    return prefix + next((key for key in keys if key in content), keys[0]) if keys else path
