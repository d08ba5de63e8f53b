"""Tiny models of transformers' real classes with random weights, one or more of each family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

VOCAB_SIZE = 131
"""No multiple of the padding."""
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"} | {"pad_token_id": 0}
EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 20,
}


def rope(kind: str, **numbers: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 500000.0, **numbers}


def _model(name: str, **changes: Any) -> Callable[[], Any]:
    """A model of transformers by the prefix of its classes."""
    config = getattr(transformers, f"{name}Config")
    head = {"GPT2": "LMHeadModel", "Bert": "ForMaskedLM", "ModernBert": "ForMaskedLM"}.get(name, "ForCausalLM")
    if name == "Gemma3":
        config = transformers.Gemma3TextConfig
    return lambda: getattr(transformers, f"{name}{head}")(config(**changes))


def _task_model(name: str, head: str, **changes: Any) -> Callable[[], Any]:
    """A model with a task's head, of three classes with names of their own."""
    labels = {} if head == "QuestionAnswering" else {"id2label": {0: "good", 1: "bad", 2: "so so"}}
    config = getattr(transformers, f"{name}Config")
    return lambda: getattr(transformers, f"{name}For{head}")(config(**changes, **labels))


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=96)
BERT = ENCODER | {
    "max_position_embeddings": 96,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODERNBERT = ENCODER | {"num_hidden_layers": 4, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2}
GEMMA = SMALL | {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24}
MODELS: dict[str, Callable[[], Any]] = {
    "llama2": _model("Llama", **SMALL),
    "llama3": _model("Llama", **SMALL, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "llama_linear": _model("Llama", **SMALL, rope_parameters=rope("linear", factor=4.0)),
    "llama_yarn": _model(
        "Llama",
        **SMALL,
        head_dim=32,
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=96, beta_fast=16.0),
    ),
    "mistral": _model("Mistral", **SMALL, sliding_window=8),
    "mixtral": _model("Mixtral", **SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen2": _model("Qwen2", **SMALL, tie_word_embeddings=True),
    "qwen2_windows": _model("Qwen2", **SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": _model("Qwen3", **SMALL, head_dim=32),
    "qwen3_moe": _model("Qwen3Moe", **SMALL, **EXPERTS, head_dim=32, norm_topk_prob=True),
    "qwen3_moe_mixed": _model("Qwen3Moe", **SMALL, **EXPERTS, head_dim=16, norm_topk_prob=False, mlp_only_layers=[1]),
    "qwen2_moe": _model("Qwen2Moe", **SMALL, **EXPERTS, shared_expert_intermediate_size=40),
    "olmo2": _model("Olmo2", **SMALL),
    "gemma": _model("Gemma", **SMALL, head_dim=32),
    "gemma2": _model("Gemma2", **GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3": _model("Gemma3", **(GEMMA | {"num_hidden_layers": 7})),
    "gpt2": _model(
        "GPT2", vocab_size=VOCAB_SIZE, n_embd=64, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "bert": _model("Bert", **BERT),
    "modernbert": _model("ModernBert", **MODERNBERT),
    **{
        f"bert_{head}": _task_model("Bert", head, **BERT)
        for head in ("SequenceClassification", "TokenClassification", "QuestionAnswering")
    },
    "bert_base": lambda: transformers.BertModel(transformers.BertConfig(**BERT)),
    "bert_without_pooler": lambda: transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False),
    "modernbert_cls": _task_model("ModernBert", "SequenceClassification", **MODERNBERT, classifier_pooling="cls"),
    "modernbert_mean": _task_model("ModernBert", "SequenceClassification", **MODERNBERT, classifier_pooling="mean"),
    "modernbert_tags": _task_model("ModernBert", "TokenClassification", **MODERNBERT),
    "modernbert_questions": _task_model("ModernBert", "QuestionAnswering", **MODERNBERT),
    "modernbert_base": lambda: transformers.ModernBertModel(transformers.ModernBertConfig(**MODERNBERT)),
    "llama_classes": _task_model("Llama", "SequenceClassification", **SMALL, pad_token_id=0),
    "llama_tags": _task_model("Llama", "TokenClassification", **SMALL),
    "llama_questions": _task_model("Llama", "QuestionAnswering", **SMALL),
    "qwen2_classes": _task_model("Qwen2", "SequenceClassification", **SMALL, tie_word_embeddings=True),
    "qwen3_questions": _task_model("Qwen3", "QuestionAnswering", **SMALL, head_dim=32),
    "mistral_classes": _task_model("Mistral", "SequenceClassification", **SMALL, sliding_window=8),
    "mistral_questions": _task_model("Mistral", "QuestionAnswering", **SMALL, sliding_window=8),
    "deepseek_v3": _model("DeepseekV3", **(SMALL | LATENT)),
    "deepseek_v3_yarn": _model(
        "DeepseekV3",
        **(SMALL | LATENT | {"q_lora_rank": None, "n_group": 1}),
        rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=96, mscale=1.0, mscale_all_dim=1.0),
    ),
}


@torch.no_grad()
def randomize(model: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """Give every weight a value of its own, also norms and biases, which are 1 and 0 at first."""
    generator = torch.Generator().manual_seed(3)
    is_zero_centered = model.config.model_type.startswith("gemma")
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if "rotary" in name or "inv_freq" in name or "embed_scale" in name or not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if (parameter.ndim == 1 and "norm" in name) or ("ln_" in name and name.endswith("weight")):
            parameter.copy_((0.0 if is_zero_centered else 1.0) + 0.3 * noise)
        else:
            parameter.copy_(0.15 * noise)
    return model.to(dtype)


def save_model(name: str, directory: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Write one of `MODELS` as transformers does."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    randomize(MODELS[name](), dtype=dtype).save_pretrained(directory, **options)
    return directory
