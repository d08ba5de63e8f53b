"""Map GPT-2: learned positions, LayerNorm, biases, and matrices stored as [in, out]."""

from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.config_json import MAX_LAYERS, ConfigReader
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.tensor_map import FusedQkv, Names, Same

_LAYER = "transformer.h.{layer}."
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def _read(reader: ConfigReader) -> Fields:
    hidden_size, heads = reader.count("n_embd"), reader.count("n_head")
    reader.must_be("scale_attn_weights", True, reason="scores are divided by the square root of a head's channels")
    reader.must_be("scale_attn_by_inverse_layer_idx", False, reason="all layers scale scores alike")
    reader.ignore("reorder_and_upcast_attn")  # changes rounding of 16-bit training only
    positions = reader.count("n_positions", 1024)
    return {
        # embd_pdrop is the same in all published models; ours has one value for both.
        "hidden_dropout": reader.dropout("resid_pdrop", 0.1),
        "attention_dropout": reader.dropout("attn_pdrop", 0.1),
        "num_layers": reader.count("n_layer", maximum=MAX_LAYERS),
        "hidden_size": hidden_size,
        "ffn_hidden_size": reader.optional_count("n_inner") or 4 * hidden_size,
        "num_attention_heads": heads,
        "num_query_groups": heads,
        "seq_length": positions,
        "max_position_embeddings": positions,
        "vocab_size": reader.count("vocab_size"),
        "position_embedding_type": "learned_absolute",
        "normalization": "LayerNorm",
        "norm_epsilon": reader.positive("layer_norm_epsilon", 1e-5),
        "activation": reader.choice("activation_function", _ACTIVATIONS, "gelu_new"),
        "add_bias_linear": True,
        "untie_embeddings_and_output_weights": not reader.flag("tie_word_embeddings", default=True),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": model.num_layers,
        "n_embd": model.hidden_size,
        "n_inner": model.ffn_hidden_size,
        "n_head": model.num_attention_heads,
        "n_positions": model.num_positions,
        "n_ctx": model.num_positions,
        "layer_norm_epsilon": model.norm_epsilon,
        "activation_function": "gelu" if model.activation == "gelu" else "gelu_new",
        "resid_pdrop": model.hidden_dropout,
        "embd_pdrop": model.hidden_dropout,
        "attn_pdrop": model.attention_dropout,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "use_cache": True,
    }


def _names(model: ModelConfig) -> Names:
    names: dict[str, Same | FusedQkv] = {
        "embedding.word_embeddings.weight": Same(name="transformer.wte.weight"),
        "embedding.position_embeddings.weight": Same(name="transformer.wpe.weight"),
        "output_layer.weight": Same(name="lm_head.weight"),
    }
    for kind in ("weight", "bias"):
        is_matrix = kind == "weight"
        fused = f"{_LAYER}attn.c_attn.{kind}"
        names |= {
            f"self_attention.linear_qkv.layer_norm_{kind}": Same(name=f"{_LAYER}ln_1.{kind}"),
            f"self_attention.linear_qkv.{kind}": FusedQkv(query=fused, key=fused, value=fused, is_transposed=is_matrix),
            f"self_attention.linear_proj.{kind}": Same(name=f"{_LAYER}attn.c_proj.{kind}", is_transposed=is_matrix),
            f"mlp.linear_fc1.layer_norm_{kind}": Same(name=f"{_LAYER}ln_2.{kind}"),
            f"mlp.linear_fc1.{kind}": Same(name=f"{_LAYER}mlp.c_fc.{kind}", is_transposed=is_matrix),
            f"mlp.linear_fc2.{kind}": Same(name=f"{_LAYER}mlp.c_proj.{kind}", is_transposed=is_matrix),
            f"decoder.final_layernorm.{kind}": Same(name=f"transformer.ln_f.{kind}"),
        }
    return names


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    names=_names,
    read=_read,
    write=_write,
    base_prefix="transformer.",
    # The causal mask, which older versions saved.
    unused_tensors=("attn.bias", "attn.masked_bias"),
)
