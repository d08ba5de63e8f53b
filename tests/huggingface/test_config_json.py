"""A config.json is read completely: what cannot be represented is refused by name, all at once."""

import json
from typing import Any

import pytest

from tests.huggingface.models import MODELS
from trainer.config.model import ModelConfig
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
    _, model = read_model({**content, "hidden_activation": None})
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
    with pytest.raises(ConfigError, match="llama differs in model.activation"):
        choose_family(model, vocab_size=100)
