"""Map Qwen2 (with Qwen2.5), Qwen2-MoE, Qwen3 and Qwen3-MoE."""

from typing import Any

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers, find_windows
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.decoder import (
    FULL,
    LAYER,
    SLIDING,
    decoder_names,
    gated_names,
    layer_types_of,
    read_decoder,
    windows_of,
    write_decoder,
)
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.families.heads import decoder_heads
from trainer.huggingface.tensor_map import Names, Same

_OUTPUT_BIAS = "it would also give the output projection a bias"


def _read_windows(reader: ConfigReader, *, num_layers: int) -> Fields:
    """Take the windows: `layer_types`, or all layers from max_window_layers on."""
    is_used = reader.flag("use_sliding_window", default=False)
    window = reader.optional_count("sliding_window", 4096)
    first = reader.optional_integer("max_window_layers", 28)
    kinds = reader.words("layer_types", (FULL, SLIDING), length=num_layers)
    if not is_used:
        return {"window_size": None}
    if kinds is None:
        kinds = [SLIDING if first is not None and layer >= first else FULL for layer in range(num_layers)]
    return windows_of(kinds, window_size=window)


def _write_windows(model: ModelConfig) -> dict[str, Any]:
    windows = find_windows(model)
    if not any(windows):
        return {"use_sliding_window": False, "sliding_window": None, "max_window_layers": model.num_layers}
    first = next(layer for layer, window in enumerate(windows) if window is not None)
    return {
        "use_sliding_window": True,
        "sliding_window": model.window_size,
        "max_window_layers": first,
        "layer_types": layer_types_of(model),
    }


def _read_qwen2(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=32768, groups=32)
    return fields | {"add_qkv_bias": True} | _read_windows(reader, num_layers=fields["num_layers"])


def _write_qwen2(model: ModelConfig) -> dict[str, Any]:
    keys = {**write_decoder(model), **_write_windows(model)}
    del keys["head_dim"]  # Qwen2 has none: it is hidden_size / num_attention_heads
    return keys


QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    names=decoder_names,
    read=_read_qwen2,
    write=_write_qwen2,
    unused_tensors=("rotary_emb.inv_freq",),
    heads=decoder_heads("Qwen2", question_base="transformer."),
)


def _read_qwen3(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=32768, groups=32, head_size=128)
    reader.must_be("attention_bias", False, reason=_OUTPUT_BIAS)
    return fields | {"qk_layernorm": True} | _read_windows(reader, num_layers=fields["num_layers"])


def _write_qwen3(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), "attention_bias": False, **_write_windows(model)}


QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    names=decoder_names,
    read=_read_qwen3,
    write=_write_qwen3,
    heads=decoder_heads("Qwen3", question_base="transformer."),
)


def _read_experts(reader: ConfigReader, *, num_layers: int, topk: int, width: int, num_experts: int) -> Fields:
    """Take the keys that both families with experts share; the arguments are their defaults."""
    reader.must_be("use_sliding_window", False, reason="windows of this family are not supported")
    reader.ignore("sliding_window", "max_window_layers")
    kinds = reader.words("layer_types", (FULL, SLIDING), length=num_layers)
    if kinds is not None and SLIDING in kinds:
        reader.refuse("layer_types", "must be full_attention in all layers: windows of this family are not supported")
    step = reader.count("decoder_sparse_step", 1)
    dense = reader.integers("mlp_only_layers")
    has_experts = [int((layer + 1) % step == 0 and layer not in dense) for layer in range(num_layers)]
    if not any(has_experts):
        reader.refuse("mlp_only_layers", "leaves no layer with experts")
    return {
        # transformers 5 writes num_local_experts.
        "num_moe_experts": reader.count("num_experts", reader.count("num_local_experts", num_experts)),
        "moe_layer_freq": [1] if all(has_experts) else has_experts,
        "moe_router_topk": reader.count("num_experts_per_tok", topk),
        "moe_ffn_hidden_size": reader.count("moe_intermediate_size", width),
        # Normalized weights of the chosen experts are a softmax over the chosen ones.
        "moe_router_pre_softmax": not reader.flag("norm_topk_prob", default=False),
    }


def _write_experts(model: ModelConfig) -> dict[str, Any]:
    layers = find_moe_layers(model)
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer, has_experts in enumerate(layers) if not has_experts],
        "num_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "moe_intermediate_size": find_expert_width(model),
        "norm_topk_prob": not model.moe_router_pre_softmax,
        "router_aux_loss_coef": model.moe_aux_loss_coeff,
        "output_router_logits": False,
        "use_sliding_window": False,
    }


def _expert_names(model: ModelConfig) -> Names:
    return {
        **decoder_names(model),
        "mlp.router.weight": Same(name=LAYER + "mlp.gate.weight"),
        **gated_names("mlp.experts.experts.", LAYER + "mlp.experts.{expert}."),
        **gated_names("mlp.shared_experts.", LAYER + "mlp.shared_expert."),
        "mlp.shared_experts.gate_weight": Same(name=LAYER + "mlp.shared_expert_gate.weight"),
    }


def _read_qwen3_moe(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=32768, groups=4)
    reader.must_be("attention_bias", False, reason=_OUTPUT_BIAS)
    experts = _read_experts(reader, num_layers=fields["num_layers"], topk=8, width=768, num_experts=128)
    return fields | experts | {"qk_layernorm": True}


def _write_qwen3_moe(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), "attention_bias": False, **_write_experts(model)}


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    peft_moves_mlps=True,
    architecture="Qwen3MoeForCausalLM",
    names=_expert_names,
    read=_read_qwen3_moe,
    write=_write_qwen3_moe,
)


def _read_qwen2_moe(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=32768, groups=16)
    experts = _read_experts(reader, num_layers=fields["num_layers"], topk=4, width=1408, num_experts=60)
    return {
        **fields,
        **experts,
        "add_qkv_bias": reader.flag("qkv_bias", default=True),
        "moe_shared_expert_intermediate_size": reader.count("shared_expert_intermediate_size", 5632),
        "moe_shared_expert_gate": True,
    }


def _write_qwen2_moe(model: ModelConfig) -> dict[str, Any]:
    keys = {
        **write_decoder(model),
        **_write_experts(model),
        "qkv_bias": model.add_qkv_bias,
        "shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size or 0,
    }
    del keys["head_dim"]
    return keys


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    names=_expert_names,
    read=_read_qwen2_moe,
    write=_write_qwen2_moe,
)
