"""A config.json is read completely: what cannot be represented is refused by name, all at once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.huggingface.models import MODELS
from trainer.config.model import ModelConfig
from trainer.huggingface.config_json import read_config_json
from trainer.huggingface.families.registry import choose_family, read_model
from trireme.errors import ConfigError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 100,
}


def problems(content: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as found:
        read_model(content)
    return {violation.path.removeprefix("config.json: "): violation.message for violation in found.value.violations}


def test_published_files_of_version_4_are_read() -> None:
    """The config.json of Llama 3.2 1B as published, with all its keys."""
    content = {
        **LLAMA,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008],
        "head_dim": 64,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
    }
    _, model = read_model(content)
    assert (model.rotary_base, model.rope_scaling_factor, model.rope_scaling_type) == (500000.0, 32.0, "llama3")
    assert model.kv_channels == 64
    assert not model.untie_embeddings_and_output_weights


def test_absent_keys_have_the_values_of_their_family() -> None:
    _, model = read_model(LLAMA)
    assert (model.num_query_groups, model.norm_epsilon, model.rotary_base) == (4, 1e-6, 10000.0)
    mixtral = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_key_value_heads": 2}
    _, model = read_model(mixtral)
    assert (model.norm_epsilon, model.rotary_base, model.num_moe_experts) == (1e-5, 1e6, 8)


def test_unknown_keys_are_refused_by_name_unless_they_say_nothing() -> None:
    found = problems({**LLAMA, "residual_scale": 0.5, "other_key": None, "yet_another": False, "list": []})
    assert list(found) == ["residual_scale"]


def test_everything_that_cannot_be_represented_is_reported_at_once() -> None:
    content = {
        **LLAMA,
        "attention_bias": True,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "hidden_act": "relu",
        "auto_map": {"AutoModel": "modeling.X"},
        "quantization_config": {"quant_method": "gptq"},
        "partial_rotary_factor": 0.5,
        "num_hidden_layers": "two",
    }
    found = problems(content)
    assert set(found) == {
        "attention_bias",
        "rope_scaling.rope_type",
        "hidden_act",
        "auto_map",
        "quantization_config",
        "partial_rotary_factor",
        "num_hidden_layers",
    }
    assert "never run" in found["auto_map"]
    assert "quantized" in found["quantization_config"]


def test_missing_keys_and_other_heads_and_families() -> None:
    short = {key: value for key, value in LLAMA.items() if key != "hidden_size"}
    assert "hidden_size" in problems(short)
    assert "architectures" in problems({**LLAMA, "architectures": ["LlamaForMultipleChoice"]})
    assert "model_type" in problems({**LLAMA, "model_type": "llma"})


def test_gemma_means_the_tanh_approximation_by_gelu() -> None:
    content = {**LLAMA, "model_type": "gemma", "architectures": ["GemmaForCausalLM"], "hidden_act": "gelu"}
    _, model = read_model({**content, "hidden_activation": None, "num_key_value_heads": 4})
    assert model.activation == "geglu_tanh"


@pytest.mark.parametrize("name", MODELS)
def test_versions_4_and_5_of_the_same_model_are_equal(name: str) -> None:
    """transformers 5 writes rope_parameters; the export writes rope_theta and rope_scaling."""
    from trainer.huggingface.families.family import config_of, find_differences  # noqa: PLC0415 - used here only

    family, model = read_model(json.loads(MODELS[name]().config.to_json_string(use_diff=False)))
    written = config_of(family, model, vocab_size=model.vocab_size or 0)
    assert "rope_parameters" not in written
    _, again = read_model(json.loads(json.dumps(written)))
    assert not find_differences(model, again)


def test_a_model_of_no_family_is_refused_with_what_the_nearest_ones_lack() -> None:
    """Of families of the same kind: a bidirectional model is not told what a family of experts lacks."""
    model = ModelConfig(
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=96,
        num_attention_heads=4,
        num_query_groups=2,
        seq_length=32,
        vocab_size=100,
        activation="gelu",
    )
    with pytest.raises(ConfigError, match="The nearest are: llama needs model.activation=swiglu; mistral needs"):
        choose_family(model, vocab_size=100)
    encoder = replace(
        model, attention_mask="bidirectional", head="classification", num_labels=2, num_query_groups=4, pooler="tanh"
    )
    with pytest.raises(ConfigError) as refusal:
        choose_family(encoder, vocab_size=100)
    said = str(refusal.value)
    for family in (": bert needs", "; modernbert needs"):
        assert family in said
    assert "model.normalization=LayerNorm" in said
    assert "moe" not in said and "model.attention_mask" not in said
    # With what is said, it fits.
    fitting = replace(
        encoder,
        **{"normalization": "LayerNorm", "layernorm_bias": False, "embedding_layernorm": True},
        **{"skip_first_layernorm": True, "activation": "geglu", "pooler": "gelu"},
    )
    needs = said.partition("modernbert needs ")[2].partition(". Train")[0]
    assert needs.split(", ") == [
        f"model.{name}={json.dumps(value) if isinstance(value, bool) else value}"
        for name, value in vars(fitting).items()
        if value != getattr(encoder, name)
    ]
    assert choose_family(fitting, vocab_size=100).model_type == "modernbert"
    experts = replace(model, activation="swiglu", num_moe_experts=4, add_bias_linear=True)
    with pytest.raises(ConfigError, match="mixtral needs model.add_bias_linear=false, model.add_qkv_bias=false"):
        choose_family(experts, vocab_size=100)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("llama2", {"num_key_value_heads": 0}, "num_key_value_heads: must be at least 1 (got 0)"),
    ("llama2", {"num_hidden_layers": 1e9}, "num_hidden_layers: must be at most 10000 (got 1000000000)"),
    ("llama2", {"max_position_embeddings": 0}, "max_position_embeddings: must be at least 1 (got 0)"),
    ("llama2", {"max_position_embeddings": 10**15}, "max_position_embeddings: must be at most 2147483647"),
    ("llama2", {"max_position_embeddings": 10**9}, "max_position_embeddings: must be at least 1 and at most 16777216"),
    ("llama2", {"rope_theta": float("inf")}, "rope_theta: must be finite (got Infinity)"),
    ("llama2", {"rope_theta": 0.5}, "rope_theta: must be more than 1 (got 0.5)"),
    ("llama2", {"eos_token_id": "a"}, 'eos_token_id: must be an id or a list of ids (got "a")'),
    ("llama2", {"bos_token_id": [1, 2]}, "bos_token_id: must be an id (got [1, 2])"),
    ("llama2", {"num_attention_heads": 5}, "num_key_value_heads: must divide num_attention_heads=5 (got 2)"),
    ("llama2", {"head_dim": 15}, "head_dim: must be even: rotary embeddings rotate pairs of channels (got 15)"),
    ("llama2", {"rms_norm_eps": 0}, "rms_norm_eps: must be greater than 0 (got 0)"),
    ("llama2", {"hidden_act": ["silu"]}, "hidden_act: must be silu or"),
    ("llama2", {"architectures": 3}, "architectures: must be LlamaForCausalLM"),
    ("mistral", {"sliding_window": -3}, "sliding_window: must be at least 1 (got -3)"),
    ("mixtral", {"num_experts_per_tok": 99}, "num_experts_per_tok: must be at most num_local_experts=4 (got 99)"),
    ("gemma2", {"layer_types": ["full_attention"]}, "layer_types: must have 3 entries, one for each layer"),
    ("gemma2", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar: must be greater than 0 (got -1)"),
    ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping: must be more than 0 (got -1.0)"),
    ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step: must be at least 1 (got 0)"),
    ("deepseek_v3", {"n_group": 3}, "n_group: must divide n_routed_experts=8 (got 3)"),
    ("gpt2", {"n_inner": 0}, "n_inner: must be at least 1 (got 0)"),
    ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers: must be at least 1 (got 0)"),
]


@pytest.mark.parametrize(
    ("name", "changes", "message"), WRONG, ids=[f"{name}-{next(iter(it))}" for name, it, _ in WRONG]
)
def test_values_that_no_model_has_are_refused_by_key(name: str, changes: dict[str, Any], message: str) -> None:
    """By the key that they come from, also where a rule of every model refuses them."""
    content = json.loads(MODELS[name]().config.to_json_string(use_diff=False))
    content.pop("rope_parameters", None)
    with pytest.raises(ConfigError) as found:
        read_model({**content, **changes})
    assert f"config.json: {message}" in str(found.value)


def test_a_file_that_nests_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ConfigError, match=r"config\.json: is damaged: maximum recursion depth exceeded"):
        read_config_json(tmp_path)
