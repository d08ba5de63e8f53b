"""Parameter and operation counts against published figures."""

import dataclasses

import pytest

from trainer.config.load import load_config
from trainer.config.model import ModelConfig
from trainer.config.model_math import count_active_parameters, count_parameters, model_flops_per_token


def preset(name: str) -> ModelConfig:
    return load_config([f"model={name}"]).model


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("gpt2_124m", 124_439_808),
        ("llama_1b", 1_235_814_400),
        ("llama_8b", 8_030_261_248),
        ("llama_70b", 70_553_706_496),
        # "175 B" is rounded. Table 2.1 (96 layers, width 12288, 2048 positions) with GPT-2's vocabulary, biases and
        # tied embeddings: 96 (12 h^2 + 13 h) + (50257 + 2048) h + 2 h with h = 12288.
        ("gpt3_175b", 174_604_259_328),
        ("mixtral_8x7b", 46_702_792_704),
        ("deepseek_moe_16b", 16_375_728_128),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(name: str, num_parameters: int) -> None:
    model = preset(name)
    assert model.vocab_size is not None
    assert count_parameters(model, model.vocab_size) == num_parameters


def test_shapes_with_what_the_presets_leave_out() -> None:
    # Published counts of Qwen2.5-0.5B (biases on query, key and value) and Qwen3-0.6B (norms on queries and keys).
    shape = {"seq_length": 4096, "untie_embeddings_and_output_weights": False}
    qwen_2 = ModelConfig(
        num_layers=24,
        hidden_size=896,
        ffn_hidden_size=4864,
        num_attention_heads=14,
        num_query_groups=2,
        add_qkv_bias=True,
        **shape,
    )
    assert count_parameters(qwen_2, 151_936) == 494_032_768
    qwen_3 = ModelConfig(
        num_layers=28,
        hidden_size=1024,
        ffn_hidden_size=3072,
        num_attention_heads=16,
        num_query_groups=8,
        kv_channels=128,
        qk_layernorm=True,
        **shape,
    )
    assert count_parameters(qwen_3, 151_936) == 596_049_920


def test_shapes_with_windows_other_norms_and_latent_attention() -> None:
    # Published counts of Gemma-2-2B and OLMo-2-7B; "671 B, of which 37 B active" of DeepSeek-V3 (arXiv:2412.19437).
    gemma = ModelConfig(
        num_layers=26,
        hidden_size=2304,
        ffn_hidden_size=9216,
        num_attention_heads=8,
        num_query_groups=4,
        kv_channels=256,
        seq_length=8192,
        norm_placement="both",
        activation="geglu_tanh",
        window_size=4096,
        window_attn_skip_freq=[1, 0],
        untie_embeddings_and_output_weights=False,
    )
    assert count_parameters(gemma, 256_000) == 2_614_341_888
    # Half of the layers see 4,096 keys but for the first 4,096 queries: 2 * 4096 - 4096^2 / 8192 of 8192.
    everywhere = dataclasses.replace(gemma, window_size=None)
    saved = 6 * 13 * 8 * 256 * (8192 - 6144)
    assert model_flops_per_token(everywhere, 256_000) - model_flops_per_token(gemma, 256_000) == saved
    olmo = ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_attention_heads=32,
        num_query_groups=32,
        seq_length=4096,
        norm_placement="branch",
        qk_layernorm=True,
        qk_layernorm_width="all",
    )
    assert count_parameters(olmo, 100_352) == 7_298_617_344
    deepseek = ModelConfig(
        num_layers=61,
        hidden_size=7168,
        ffn_hidden_size=18432,
        num_attention_heads=128,
        num_query_groups=128,
        seq_length=4096,
        multi_latent_attention=True,
        q_lora_rank=1536,
        num_moe_experts=256,
        moe_layer_freq=[0] * 3 + [1] * 58,
        moe_ffn_hidden_size=2048,
        moe_shared_expert_intermediate_size=2048,
        moe_router_topk=8,
    )
    assert count_parameters(deepseek, 129_280) == pytest.approx(671e9, rel=1e-3)
    assert count_active_parameters(deepseek, 129_280) == pytest.approx(37e9, rel=2e-2)


def test_encoders() -> None:
    # transformers: BertForMaskedLM(bert-base-uncased) without its buffers, ModernBertForMaskedLM(ModernBERT-base).
    bert = ModelConfig(
        num_layers=12,
        hidden_size=768,
        ffn_hidden_size=3072,
        num_attention_heads=12,
        num_query_groups=12,
        seq_length=512,
        position_embedding_type="learned_absolute",
        normalization="LayerNorm",
        norm_placement="sum",
        activation="gelu",
        add_bias_linear=True,
        add_qkv_bias=True,
        attention_mask="bidirectional",
        embedding_layernorm=True,
        num_tokentypes=2,
        head="mlm",
        vocab_bias=True,
        untie_embeddings_and_output_weights=False,
    )
    assert count_parameters(bert, 30_522) == 109_514_298
    modern = dataclasses.replace(
        bert,
        num_layers=22,
        ffn_hidden_size=1152,
        position_embedding_type="rope",
        norm_placement="pre",
        skip_first_layernorm=True,
        layernorm_bias=False,
        activation="geglu",
        add_bias_linear=False,
        add_qkv_bias=False,
        num_tokentypes=0,
    )
    assert count_parameters(modern, 50_368) == 149_655_232
    # transformers: BertForSequenceClassification(bert-base-uncased) with three labels.
    classes = dataclasses.replace(bert, head="classification", num_labels=3, pooler="tanh")
    assert count_parameters(classes, 30_522) == 109_484_547
    outputs = 6 * 768 * (30_522 + 768)  # of the output layer and of the head before it
    assert model_flops_per_token(bert, 30_522) - model_flops_per_token(classes, 30_522) == outputs
    # 512 keys for each query, where causal attention has half of them on average.
    causal = dataclasses.replace(bert, attention_mask="causal")
    assert model_flops_per_token(bert, 30_522) - model_flops_per_token(causal, 30_522) == 6 * 12 * 768 * 512


def test_active_parameters_of_mixtures_of_experts() -> None:
    # "12.9 B active" (Jiang et al., 2024) and "2.8 B" (Dai et al., 2024).
    mixtral, deepseek = preset("mixtral_8x7b"), preset("deepseek_moe_16b")
    assert count_active_parameters(mixtral, 32_000) == 12_879_925_248
    assert count_active_parameters(deepseek, 102_400) == 2_828_650_496
    attention = 6 * 32 * 4096 * 8192
    embedding_and_norms = 32_000 * 4096 + 65 * 4096
    assert model_flops_per_token(mixtral, 32_000) == 6 * (12_879_925_248 - embedding_and_norms) + attention
    dense = preset("llama_8b")
    assert count_active_parameters(dense, 128_256) == count_parameters(dense, 128_256)


def test_quickstart_is_small() -> None:
    assert 5_000_000 <= count_parameters(preset("quickstart"), 8192) <= 10_000_000


def test_operations_of_gpt3_are_those_of_its_paper() -> None:
    # Brown et al., table D.1: 3.14e23 operations for 300 B tokens, as 6 * parameters * tokens. Counting causal
    # attention adds 6 * 96 * 12288 * 2048 per token.
    model = preset("gpt3_175b")
    operations = model_flops_per_token(model, 50257)
    attention = 6 * 96 * 12288 * 2048
    assert (operations - attention) * 300e9 == pytest.approx(3.14e23, rel=0.002)
    assert operations == 6 * (96 * 12 * 12288**2 + 50257 * 12288) + attention


def test_operations_count_matrix_products_only() -> None:
    model = preset("llama_8b")
    tied = dataclasses.replace(model, untie_embeddings_and_output_weights=False)
    assert model_flops_per_token(model, 128_256) == model_flops_per_token(tied, 128_256)
    norms = (2 * 32 + 1) * 4096
    matmul = count_parameters(tied, 128_256) - norms
    assert model_flops_per_token(model, 128_256) == 6 * matmul + 6 * 32 * 4096 * 8192
