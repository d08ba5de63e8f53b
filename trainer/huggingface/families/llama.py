"""Map Llama 2 and 3 (with SmolLM, Yi and others of the same model_type), Mistral and Mixtral."""

from typing import Any

from trainer.config.model import ModelConfig, find_expert_width
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.decoder import (
    LAYER,
    SLIDING,
    decoder_names,
    read_decoder,
    windows_of,
    write_decoder,
)
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.families.heads import decoder_heads
from trainer.huggingface.tensor_map import Halves, Names, Same


def _read_llama(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=2048)
    reason = "the output projection has a bias only where queries, keys and values have none, which is not supported"
    reader.must_be("attention_bias", False, reason=reason)
    reader.must_be("mlp_bias", False, reason="the MLP has no biases")
    return fields


def _write_llama(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), "attention_bias": False, "mlp_bias": False}


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    names=decoder_names,
    read=_read_llama,
    write=_write_llama,
    unused_tensors=("rotary_emb.inv_freq",),
    heads=decoder_heads("Llama", question_base="transformer."),
)


def _read_mistral(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, num_positions=131072, groups=8)
    window = reader.optional_count("sliding_window", 4096)
    return fields | windows_of([SLIDING] * fields["num_layers"], window_size=window)


def _write_mistral(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), "sliding_window": model.window_size}


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    names=decoder_names,
    read=_read_mistral,
    write=_write_mistral,
    unused_tensors=("rotary_emb.inv_freq",),
    heads=decoder_heads("Mistral"),
)


def _read_mixtral(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, epsilon=1e-5, theta=1e6, num_positions=131072, groups=8)
    window = reader.optional_count("sliding_window")
    fields |= windows_of([SLIDING] * fields["num_layers"], window_size=window)
    return fields | {
        "num_moe_experts": reader.count("num_local_experts", 8),
        "moe_router_topk": reader.count("num_experts_per_tok", 2),
        "moe_ffn_hidden_size": fields["ffn_hidden_size"],
    }


def _write_mixtral(model: ModelConfig) -> dict[str, Any]:
    return {
        **write_decoder(model),
        "intermediate_size": find_expert_width(model),
        "sliding_window": model.window_size,
        "num_local_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "router_aux_loss_coef": model.moe_aux_loss_coeff,
        "output_router_logits": False,
    }


def _mixtral_names(model: ModelConfig) -> Names:
    moe = LAYER + "block_sparse_moe."
    expert = moe + "experts.{expert}."
    names = {name: mapped for name, mapped in decoder_names(model).items() if not name.startswith("mlp.")}
    return {
        **names,
        "mlp.router.weight": Same(name=moe + "gate.weight"),
        "mlp.experts.experts.linear_fc1.weight": Halves(first=expert + "w1.weight", second=expert + "w3.weight"),
        "mlp.experts.experts.linear_fc2.weight": Same(name=expert + "w2.weight"),
    }


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    names=_mixtral_names,
    read=_read_mixtral,
    write=_write_mixtral,
    unused_tensors=("rotary_emb.inv_freq",),
)
