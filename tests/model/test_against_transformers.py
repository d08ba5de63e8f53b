"""Our models compute what transformers' Llama 3.1 and Qwen 3 compute from the same weights.

That proves rotary embedding with scaling, grouped queries, query-key norms, RMSNorm and SwiGLU at once.
"""

import dataclasses
from typing import Any

import pytest
import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.rotary_tables import RotaryTables, attention_factor

transformers = pytest.importorskip("transformers")
rope_utils = pytest.importorskip("transformers.modeling_rope_utils")

LLAMA = ModelConfig(
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=32,
    seq_length=512,
    rotary_base=500000.0,
    rope_scaling_factor=8.0,
    init_method_std=0.15,
    vocab_size=PADDED_VOCAB_SIZE,
)
QWEN = dataclasses.replace(LLAMA, qk_layernorm=True, rope_scaling_factor=None, rotary_base=10000.0)


def common_settings(model: ModelConfig) -> dict[str, object]:
    return {
        "vocab_size": PADDED_VOCAB_SIZE,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_size,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }


def rope_settings(model: ModelConfig) -> dict[str, object]:
    if model.rope_scaling_factor is None:
        return {"rope_type": "default", "rope_theta": model.rotary_base}
    return {
        "rope_type": "llama3",
        "rope_theta": model.rotary_base,
        "factor": model.rope_scaling_factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def llama_config(model: ModelConfig) -> "transformers.LlamaConfig":
    return transformers.LlamaConfig(
        **common_settings(model), rope_parameters=rope_settings(model), max_position_embeddings=131072
    )


def qwen_config(model: ModelConfig) -> "transformers.Qwen3Config":
    return transformers.Qwen3Config(
        **common_settings(model), rope_parameters=rope_settings(model), max_position_embeddings=4096
    )


@torch.no_grad()
def copy_weights(ours: torch.nn.Module, theirs: "transformers.PreTrainedModel", *, model: ModelConfig) -> None:
    """Fill transformers' model; its query, key and value projections are apart, ours lie together by query group."""
    groups, heads, width = model.num_query_groups, model.num_attention_heads, model.head_size
    weights = dict(ours.named_parameters())
    renamed = {
        "model.embed_tokens.weight": weights["embedding.word_embeddings.weight"],
        "model.norm.weight": weights["decoder.final_layernorm.weight"],
        "lm_head.weight": weights["output_layer.weight"],
    }
    for layer in range(model.num_layers):
        mine = f"decoder.layers.{layer}."
        qkv = weights[f"{mine}self_attention.linear_qkv.weight"].view(groups, heads // groups + 2, width, -1)
        gate, up = weights[f"{mine}mlp.linear_fc1.weight"].chunk(2)
        parts = {
            "self_attn.q_proj.weight": qkv[:, :-2].flatten(0, 2),
            "self_attn.k_proj.weight": qkv[:, -2].flatten(0, 1),
            "self_attn.v_proj.weight": qkv[:, -1].flatten(0, 1),
            "self_attn.o_proj.weight": weights[f"{mine}self_attention.linear_proj.weight"],
            "mlp.gate_proj.weight": gate,
            "mlp.up_proj.weight": up,
            "mlp.down_proj.weight": weights[f"{mine}mlp.linear_fc2.weight"],
            "input_layernorm.weight": weights[f"{mine}input_layernorm.weight"],
            "post_attention_layernorm.weight": weights[f"{mine}pre_mlp_layernorm.weight"],
        }
        if model.qk_layernorm:
            parts["self_attn.q_norm.weight"] = weights[f"{mine}self_attention.q_layernorm.weight"]
            parts["self_attn.k_norm.weight"] = weights[f"{mine}self_attention.k_layernorm.weight"]
        renamed |= {f"model.layers.{layer}.{name}": value for name, value in parts.items()}
    assert renamed.keys() == dict(theirs.named_parameters()).keys()
    for name, parameter in theirs.named_parameters():
        parameter.copy_(renamed[name])


def logits_of_both(model: ModelConfig, theirs: "transformers.PreTrainedModel") -> tuple[torch.Tensor, torch.Tensor]:
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (ours,) = build_chunks(ParallelConfig(), world, model=model)
        generator = torch.Generator().manual_seed(11)
        for name, parameter in ours.named_parameters():
            if "norm" in name:  # at 1 they would not show which is which
                parameter.copy_(1 + 0.5 * torch.randn(parameter.shape, generator=generator))
        copy_weights(ours, theirs, model=model)
        tokens = torch.randint(0, PADDED_VOCAB_SIZE, (2, model.seq_length), generator=generator)
        positions = torch.arange(model.seq_length).expand(2, -1)
        return ours.eval()(tokens, positions, None), theirs.eval()(tokens).logits


def test_llama_with_scaled_rotary_frequencies() -> None:
    ours, theirs = logits_of_both(LLAMA, transformers.LlamaForCausalLM(llama_config(LLAMA)))
    assert theirs.std() > 0.5
    # fp32 sums of up to 512 terms in another order, over two layers; the logits are of size 1 to 10.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)
    unscaled = dataclasses.replace(LLAMA, rope_scaling_factor=None)
    _, others = logits_of_both(unscaled, transformers.LlamaForCausalLM(llama_config(unscaled)))
    assert (others - theirs).abs().max() > 1e-2, "scaling matters at this length"


def test_qwen_with_normalised_queries_and_keys() -> None:
    ours, theirs = logits_of_both(QWEN, transformers.Qwen3ForCausalLM(qwen_config(QWEN)))
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("head_size", "factor"), [(64, 32.0), (128, 8.0)], ids=["llama 3.2 1B", "llama 3.1 8B"])
def test_scaled_frequencies_are_those_of_the_published_models(head_size: int, factor: float) -> None:
    model = dataclasses.replace(LLAMA, kv_channels=head_size, rope_scaling_factor=factor)
    expected, factor_of_heads = rope_utils.ROPE_INIT_FUNCTIONS["llama3"](llama_config(model), torch.device("cpu"))
    assert factor_of_heads == attention_factor(model) == 1.0
    torch.testing.assert_close(frequencies_of(model), expected, rtol=1e-6, atol=0)
    plain = 1.0 / model.rotary_base ** (torch.arange(0, head_size, 2) / head_size)
    kept, slowed = int((expected == plain).sum()), int(torch.isclose(expected, plain / factor).sum())
    assert kept > 10
    assert slowed > 5
    assert kept + slowed < head_size // 2, "and some between"


SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama3 with other numbers": (
        {"rope_original_max_position_embeddings": 64, "rope_low_freq_factor": 1.5, "rope_high_freq_factor": 6.0},
        {
            "rope_type": "llama3",
            "original_max_position_embeddings": 64,
            "low_freq_factor": 1.5,
            "high_freq_factor": 6.0,
        },
    ),
    "linear": ({"rope_scaling_type": "linear"}, {"rope_type": "linear"}),
    "yarn": (
        {"rope_scaling_type": "yarn", "rope_original_max_position_embeddings": 64},
        {"rope_type": "yarn", "original_max_position_embeddings": 64},
    ),
    "yarn with other numbers": (
        {
            "rope_scaling_type": "yarn",
            "rope_original_max_position_embeddings": 4096,
            "yarn_beta_fast": 16.0,
            "yarn_beta_slow": 2.0,
            "yarn_attention_factor": 1.25,
        },
        {
            "rope_type": "yarn",
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.25,
        },
    ),
    "yarn of deepseek": (
        {
            "rope_scaling_type": "yarn",
            "rope_original_max_position_embeddings": 4096,
            "yarn_mscale": 0.8,
            "yarn_mscale_all_dim": 0.5,
        },
        {"rope_type": "yarn", "original_max_position_embeddings": 4096, "mscale": 0.8, "mscale_all_dim": 0.5},
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_every_scaling_is_that_of_transformers(name: str) -> None:
    ours, theirs = SCALINGS[name]
    model = dataclasses.replace(LLAMA, rope_scaling_factor=8.0, **ours)
    config = transformers.LlamaConfig(
        **common_settings(model),
        rope_parameters={"rope_theta": model.rotary_base, "factor": 8.0, **theirs},
        max_position_embeddings=8 * theirs.get("original_max_position_embeddings", 64),
    )
    expected, factor = rope_utils.ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, torch.device("cpu"))
    torch.testing.assert_close(frequencies_of(model), expected, rtol=1e-6, atol=0)
    assert attention_factor(model) == pytest.approx(factor, rel=1e-12)


def frequencies_of(model: ModelConfig) -> torch.Tensor:
    (angles,) = RotaryTables(model).angles(2, device=torch.device("cpu"))
    return angles[1, 0, 0].chunk(2)[0]
