"""Read and write what the families after Llama share: RMSNorm, rotary embeddings, a gated MLP, names of tensors."""

from typing import Any

from trainer.config.model import ModelConfig, find_windows
from trainer.huggingface.config_json import MAX_LAYERS, ConfigReader
from trainer.huggingface.families.family import Fields
from trainer.huggingface.tensor_map import FusedQkv, Halves, Mapped, Names, Same

LAYER = "model.layers.{layer}."
FULL, SLIDING = "full_attention", "sliding_attention"
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}
_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}


def read_decoder(
    reader: ConfigReader,
    *,
    epsilon: float = 1e-6,
    theta: float = 10000.0,
    is_tied: bool = False,
    num_positions: int | None = None,
    head_size: int | None = None,
    groups: int | None = None,
    activation_key: str = "hidden_act",
    activation: str = "silu",
) -> Fields:
    """Take the keys that all families share.

    Args:
        epsilon, theta, is_tied, num_positions, head_size, groups, activation: the family's values of absent keys; None
            of num_positions requires the key, of the head's size means hidden_size / num_attention_heads, and of groups
            as many as heads.
    """
    hidden_size, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    channels = reader.optional_count("head_dim", head_size)
    if channels is None:
        channels = head_size
    positions = reader.count("max_position_embeddings", num_positions)
    reader.must_be("is_causal", True, reason="each token sees those before it")
    return {
        "attention_dropout": reader.dropout("attention_dropout", 0.0),
        "num_layers": reader.count("num_hidden_layers", maximum=MAX_LAYERS),
        "hidden_size": hidden_size,
        "ffn_hidden_size": reader.count("intermediate_size"),
        "num_attention_heads": heads,
        "num_query_groups": reader.count("num_key_value_heads", groups or heads),
        "kv_channels": None if channels is None or channels * heads == hidden_size else channels,
        "seq_length": positions,
        "max_position_embeddings": positions,
        "vocab_size": reader.count("vocab_size"),
        "norm_epsilon": reader.positive("rms_norm_eps", epsilon),
        "activation": reader.choice(activation_key, GATED, activation),
        "untie_embeddings_and_output_weights": not reader.flag("tie_word_embeddings", default=is_tied),
        **read_rope(reader, theta=theta, num_positions=positions),
    }


def write_decoder(model: ModelConfig, *, activation_key: str = "hidden_act") -> dict[str, Any]:
    """Write the same keys."""
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_size,
        "max_position_embeddings": model.num_positions,
        "rms_norm_eps": model.norm_epsilon,
        activation_key: _ACTIVATIONS.get(model.activation, "silu"),
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "use_cache": True,
        **write_rope(model),
    }


def read_rope(reader: ConfigReader, *, theta: float, num_positions: int) -> Fields:
    """Take the rotary frequencies: `rope_theta` and `rope_scaling`, or `rope_parameters` of transformers 5.

    Source: transformers, modeling_rope_utils.
    """
    base = reader.number("rope_theta", theta)
    reader.must_be("partial_rotary_factor", 1.0, reason="all channels of a head are rotated")
    scaling = reader.group("rope_scaling") or reader.group("rope_parameters")
    reader.ignore("rope_scaling", "rope_parameters")
    if scaling is None:
        return {"rotary_base": base}
    if not (scaling.has(FULL) or scaling.has(SLIDING)):
        return _read_bases(reader, scaling, base=base, num_positions=num_positions)
    fields: Fields = {"rotary_base": base}
    full, local = scaling.group(FULL), scaling.group(SLIDING)
    if full is not None:
        fields |= _read_bases(scaling, full, base=base, num_positions=num_positions)
    if local is not None:
        local.must_be("rope_type", "default", reason="layers with a window have no scaling")
        fields["rotary_base_local"] = local.number("rope_theta", 10000.0)
        scaling.close_group(local)
    reader.close_group(scaling)
    return fields


def _read_bases(reader: ConfigReader, scaling: ConfigReader, *, base: float, num_positions: int) -> Fields:
    """Take scaling and base from an object of `reader`."""
    fields = read_scaling(scaling, num_positions=num_positions)
    fields["rotary_base"] = scaling.number("rope_theta", base)
    scaling.must_be("partial_rotary_factor", 1.0, reason="all channels of a head are rotated")
    reader.close_group(scaling)
    return fields


def read_scaling(scaling: ConfigReader, *, num_positions: int) -> Fields:
    """Take the fields of rotary scaling from the object that describes it."""
    kinds = {"default": "default", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
    old = scaling.choice("type", kinds, "default") if scaling.has("type") else "default"
    scaling.ignore("type")
    kind = scaling.choice("rope_type", kinds, old)
    if kind == "default":
        scaling.ignore("factor")
        return {}
    fields: Fields = {"rope_scaling_type": kind, "rope_scaling_factor": scaling.number("factor")}
    if kind == "linear":
        scaling.ignore("original_max_position_embeddings")
        return fields
    original = scaling.count("original_max_position_embeddings", num_positions)
    fields["rope_original_max_position_embeddings"] = original
    if kind == "llama3":
        fields["rope_low_freq_factor"] = scaling.number("low_freq_factor")
        fields["rope_high_freq_factor"] = scaling.number("high_freq_factor")
        return fields
    scaling.must_be("truncate", True, reason="the bounds of the ramp are whole channels")
    scaling.ignore("finetuned")
    fields |= {
        "yarn_beta_fast": scaling.optional_number("beta_fast", 32.0) or 32.0,
        "yarn_beta_slow": scaling.optional_number("beta_slow", 1.0) or 1.0,
        "yarn_attention_factor": scaling.optional_number("attention_factor"),
        "yarn_mscale": scaling.optional_number("mscale") or None,
        "yarn_mscale_all_dim": scaling.optional_number("mscale_all_dim") or None,
    }
    return fields


def write_rope(model: ModelConfig) -> dict[str, Any]:
    """Write rope_theta and rope_scaling, which every version of transformers, vLLM and llama.cpp reads."""
    return {"rope_theta": model.rotary_base, "rope_scaling": write_scaling(model)}


def write_scaling(model: ModelConfig) -> dict[str, Any] | None:
    """Write the object that describes rotary scaling; None without scaling."""
    if model.rope_scaling_factor is None:
        return None
    kind = model.rope_scaling_type
    values: dict[str, Any] = {"rope_type": kind, "factor": model.rope_scaling_factor}
    if kind == "linear":
        return values
    values["original_max_position_embeddings"] = model.rope_original_max_position_embeddings
    if kind == "llama3":
        values |= {"low_freq_factor": model.rope_low_freq_factor, "high_freq_factor": model.rope_high_freq_factor}
        return values
    optional = {
        "attention_factor": model.yarn_attention_factor,
        "mscale": model.yarn_mscale,
        "mscale_all_dim": model.yarn_mscale_all_dim,
    }
    values |= {"beta_fast": model.yarn_beta_fast, "beta_slow": model.yarn_beta_slow}
    return values | {key: value for key, value in optional.items() if value is not None}


def windows_of(kinds: list[str], *, window_size: int | None) -> Fields:
    """Return the fields of sliding windows from the kind of each layer, by the shortest pattern that repeats."""
    has_window = [int(kind == SLIDING) for kind in kinds]
    if window_size is None or not any(has_window):
        return {"window_size": None}
    period = next(
        size
        for size in range(1, len(has_window) + 1)
        if all(value == has_window[index % size] for index, value in enumerate(has_window))
    )
    return {"window_size": window_size, "window_attn_skip_freq": has_window[:period]}


def layer_types_of(model: ModelConfig) -> list[str]:
    """Return the kind of each layer."""
    return [SLIDING if window is not None else FULL for window in find_windows(model)]


def decoder_names(model: ModelConfig) -> dict[str, Mapped]:
    """Return Llama's tensors; biases and norms of queries and keys are those of Qwen."""
    attention = LAYER + "self_attn."
    return {
        "embedding.word_embeddings.weight": Same(name="model.embed_tokens.weight"),
        "self_attention.linear_qkv.layer_norm_weight": Same(name=LAYER + "input_layernorm.weight"),
        "self_attention.linear_qkv.weight": qkv_names("weight"),
        "self_attention.linear_qkv.bias": qkv_names("bias"),
        "self_attention.q_layernorm.weight": Same(name=attention + "q_norm.weight"),
        "self_attention.k_layernorm.weight": Same(name=attention + "k_norm.weight"),
        "self_attention.linear_proj.weight": Same(name=attention + "o_proj.weight"),
        "mlp.linear_fc1.layer_norm_weight": Same(name=LAYER + "post_attention_layernorm.weight"),
        "pre_mlp_layernorm.weight": Same(name=LAYER + "post_attention_layernorm.weight"),
        **gated_names("mlp.", LAYER + "mlp."),
        "decoder.final_layernorm.weight": Same(name="model.norm.weight"),
        "output_layer.weight": Same(name="lm_head.weight"),
    }


def qkv_names(kind: str) -> FusedQkv:
    """Return the projections of queries, keys and values; `kind` is weight or bias."""
    query, key, value = (f"{LAYER}self_attn.{part}_proj.{kind}" for part in "qkv")
    return FusedQkv(query=query, key=key, value=value)


def gated_names(native: str, source: str) -> Names:
    """Return the three matrices of a gated MLP, by the prefixes of its tensors on both sides."""
    return {
        f"{native}linear_fc1.weight": Halves(first=f"{source}gate_proj.weight", second=f"{source}up_proj.weight"),
        f"{native}linear_fc2.weight": Same(name=f"{source}down_proj.weight"),
    }
