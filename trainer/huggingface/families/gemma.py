"""Map the text models of Gemma 1, 2 and 3."""

import math
from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.decoder import (
    FULL,
    LAYER,
    SLIDING,
    decoder_names,
    layer_types_of,
    read_decoder,
    windows_of,
    write_decoder,
)
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.tensor_map import Names, Same

_TANH = "gelu_pytorch_tanh"


def _read_common(reader: ConfigReader, *, activation_key: str, groups: int, num_positions: int, theta: float) -> Fields:
    fields = read_decoder(
        reader,
        is_tied=True,
        head_size=256,
        groups=groups,
        num_positions=num_positions,
        theta=theta,
        activation_key=activation_key,
        activation=_TANH,
    )
    reader.must_be("attention_bias", False, reason="it would also give the output projection a bias")
    reader.must_be("use_bidirectional_attention", False, reason="each token sees those before it")
    return fields | {"layernorm_zero_centered_gamma": True, "embedding_scale": math.sqrt(fields["hidden_size"])}


def _read_gemma(reader: ConfigReader) -> Fields:
    fields = _read_common(reader, activation_key="hidden_act", groups=16, num_positions=8192, theta=10000.0)
    # Published files say gelu and mean its approximation, which `hidden_activation` says where it is set.
    if fields["activation"] == "geglu":
        fields["activation"] = "geglu_tanh"
    if reader.has("hidden_activation"):
        reader.must_be("hidden_activation", _TANH, reason="Gemma's MLP uses it")
    return fields


def _write_gemma(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), "hidden_activation": _TANH, "attention_bias": False}


GEMMA = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    names=decoder_names,
    read=_read_gemma,
    write=_write_gemma,
    unused_tensors=("rotary_emb.inv_freq",),
)


def _read_scores(reader: ConfigReader, *, head_size: int, attention_cap: float | None, cap: float | None) -> Fields:
    """Take scale and bounds of scores and logits; the caps are the family's defaults."""
    scalar = reader.positive("query_pre_attn_scalar", 256)
    return {
        "softmax_scale": None if scalar == head_size else scalar**-0.5,
        "attn_logit_softcapping": reader.optional_number("attn_logit_softcapping", attention_cap),
        "final_logit_softcapping": reader.optional_number("final_logit_softcapping", cap),
    }


def _write_scores(model: ModelConfig) -> dict[str, Any]:
    scale = model.softmax_scale
    scalar = float(model.head_size) if scale is None else round(scale**-2, 6)
    return {
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "attn_logit_softcapping": model.attn_logit_softcapping,
        "final_logit_softcapping": model.final_logit_softcapping,
        "attention_bias": False,
        "sliding_window": model.window_size,
        "layer_types": layer_types_of(model),
    }


def _read_layer_types(reader: ConfigReader, *, num_layers: int, period: int) -> list[str]:
    """Take the kind of each layer; without the key, every `period`-th layer attends to everything."""
    kinds = reader.words("layer_types", (FULL, SLIDING), length=num_layers)
    return kinds or [SLIDING if (layer + 1) % period else FULL for layer in range(num_layers)]


def _head_size(fields: Fields) -> int:
    return int(fields["kv_channels"] or fields["hidden_size"] // fields["num_attention_heads"])


def _read_gemma2(reader: ConfigReader) -> Fields:
    fields = _read_common(reader, activation_key="hidden_activation", groups=4, num_positions=8192, theta=10000.0)
    reader.ignore("hidden_act")  # of older versions, which read hidden_activation
    kinds = _read_layer_types(reader, num_layers=fields["num_layers"], period=2)
    return {
        **fields,
        **_read_scores(reader, head_size=_head_size(fields), attention_cap=50.0, cap=30.0),
        **windows_of(kinds, window_size=reader.optional_count("sliding_window", 4096)),
        "norm_placement": "both",
    }


def _write_gemma2(model: ModelConfig) -> dict[str, Any]:
    keys = write_decoder(model, activation_key="hidden_activation")
    return {**keys, "hidden_act": keys["hidden_activation"], **_write_scores(model)}


def _sandwich_names(model: ModelConfig) -> Names:
    return {
        **decoder_names(model),
        "post_self_attn_layernorm.weight": Same(name=LAYER + "post_attention_layernorm.weight"),
        "mlp.linear_fc1.layer_norm_weight": Same(name=LAYER + "pre_feedforward_layernorm.weight"),
        "post_mlp_layernorm.weight": Same(name=LAYER + "post_feedforward_layernorm.weight"),
    }


GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    names=_sandwich_names,
    read=_read_gemma2,
    write=_write_gemma2,
)


def _read_gemma3(reader: ConfigReader) -> Fields:
    fields = _read_common(reader, activation_key="hidden_activation", groups=4, num_positions=131072, theta=1_000_000.0)
    kinds = _read_layer_types(reader, num_layers=fields["num_layers"], period=reader.count("sliding_window_pattern", 6))
    reader.ignore("_sliding_window_pattern")
    return {
        **fields,
        **_read_scores(reader, head_size=_head_size(fields), attention_cap=None, cap=None),
        **windows_of(kinds, window_size=reader.optional_count("sliding_window", 4096)),
        "norm_placement": "both",
        "qk_layernorm": True,
        "rotary_base_local": reader.number("rope_local_base_freq", fields.get("rotary_base_local", 10000.0)),
    }


def _write_gemma3(model: ModelConfig) -> dict[str, Any]:
    return {
        **write_decoder(model, activation_key="hidden_activation"),
        **_write_scores(model),
        "rope_local_base_freq": model.rotary_base if model.rotary_base_local is None else model.rotary_base_local,
    }


GEMMA3 = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    names=_sandwich_names,
    read=_read_gemma3,
    write=_write_gemma3,
)
