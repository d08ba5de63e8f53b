"""Map encoders: BERT and ModernBERT."""

from typing import Any

from trainer.config.model import ModelConfig, find_windows
from trainer.huggingface.config_json import MAX_LAYERS, ConfigReader
from trainer.huggingface.families.decoder import FULL, SLIDING, layer_types_of, windows_of
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.families.heads import BERT_HEADS, MODERNBERT_HEADS
from trainer.huggingface.tensor_map import FusedQkv, Halves, Names, Same

_LAYER = "bert.encoder.layer.{layer}."
_MODERN = "model.layers.{layer}."
_MASKED: Fields = {"attention_mask": "bidirectional", "head": "mlm", "vocab_bias": True, "normalization": "LayerNorm"}


def _read(reader: ConfigReader) -> Fields:
    heads = reader.count("num_attention_heads", 12)
    positions = reader.count("max_position_embeddings", 512)
    reader.must_be("position_embedding_type", "absolute", reason="positions are a table")
    reader.must_be("is_decoder", False, reason="each token sees all others")
    reader.must_be("add_cross_attention", False, reason="each token sees all others")
    reader.must_be("hidden_act", "gelu", reason="layers and head use the error function")
    reader.ignore("gradient_checkpointing")
    hidden_dropout = reader.dropout("hidden_dropout_prob", 0.1)
    return {
        "hidden_dropout": hidden_dropout,
        "attention_dropout": reader.dropout("attention_probs_dropout_prob", 0.1),
        "head_dropout": reader.dropout("classifier_dropout", hidden_dropout),
        **_MASKED,
        "num_layers": reader.count("num_hidden_layers", 12, maximum=MAX_LAYERS),
        "hidden_size": reader.count("hidden_size", 768),
        "ffn_hidden_size": reader.count("intermediate_size", 3072),
        "num_attention_heads": heads,
        "num_query_groups": heads,
        "seq_length": positions,
        "max_position_embeddings": positions,
        "vocab_size": reader.count("vocab_size", 30522),
        "num_tokentypes": reader.integer("type_vocab_size", 2),
        "norm_epsilon": reader.positive("layer_norm_eps", 1e-12),
        "position_embedding_type": "learned_absolute",
        "norm_placement": "sum",
        "embedding_layernorm": True,
        "activation": "gelu",
        "add_bias_linear": True,
        "untie_embeddings_and_output_weights": not reader.flag("tie_word_embeddings", default=True),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": model.num_positions,
        "type_vocab_size": model.num_tokentypes,
        "layer_norm_eps": model.norm_epsilon,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "use_cache": True,
    }


def _names(model: ModelConfig) -> Names:
    names: dict[str, Same | FusedQkv] = {
        "embedding.word_embeddings.weight": Same(name="bert.embeddings.word_embeddings.weight"),
        "embedding.position_embeddings.weight": Same(name="bert.embeddings.position_embeddings.weight"),
        "embedding.tokentype_embeddings.weight": Same(name="bert.embeddings.token_type_embeddings.weight"),
        "output_layer.weight": Same(name="cls.predictions.decoder.weight"),
        "output_layer.bias": Same(name="cls.predictions.bias"),
    }
    for kind in ("weight", "bias"):
        query, key, value = (f"{_LAYER}attention.self.{part}.{kind}" for part in ("query", "key", "value"))
        names |= {
            f"embedding.layernorm.{kind}": Same(name=f"bert.embeddings.LayerNorm.{kind}"),
            f"self_attention.linear_qkv.{kind}": FusedQkv(query=query, key=key, value=value),
            f"self_attention.linear_proj.{kind}": Same(name=f"{_LAYER}attention.output.dense.{kind}"),
            f"post_self_attn_layernorm.{kind}": Same(name=f"{_LAYER}attention.output.LayerNorm.{kind}"),
            f"mlp.linear_fc1.{kind}": Same(name=f"{_LAYER}intermediate.dense.{kind}"),
            f"mlp.linear_fc2.{kind}": Same(name=f"{_LAYER}output.dense.{kind}"),
            f"post_mlp_layernorm.{kind}": Same(name=f"{_LAYER}output.LayerNorm.{kind}"),
            f"head.dense.{kind}": Same(name=f"cls.predictions.transform.dense.{kind}"),
            f"head.layernorm.{kind}": Same(name=f"cls.predictions.transform.LayerNorm.{kind}"),
        }
    return names


BERT = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    names=_names,
    read=_read,
    write=_write,
    base_prefix="bert.",
    # Positions that older versions saved, what only the prediction of the next sentence uses, and a copy of the bias.
    unused_tensors=(
        "embeddings.position_ids",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        "cls.predictions.decoder.bias",
    ),
    tied_copy="cls.predictions.decoder.weight",
    heads=BERT_HEADS,
)


def _read_modern(reader: ConfigReader) -> Fields:
    heads = reader.count("num_attention_heads", 12)
    positions = reader.count("max_position_embeddings", 8192)
    num_layers = reader.count("num_hidden_layers", 22, maximum=MAX_LAYERS)
    for key in ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"):
        reader.must_be(key, False, reason="layers have no biases")
    for key in ("hidden_activation", "classifier_activation"):
        reader.must_be(key, "gelu", reason="layers and head use the error function")
    reader.must_be("decoder_bias", True, reason="the output layer has a bias per token")
    hidden_dropout = reader.dropout("embedding_dropout", 0.0)
    if reader.dropout("mlp_dropout", 0.0) != hidden_dropout:
        reader.warn("embedding_dropout and mlp_dropout differ, which no setting says here: hidden_dropout is 0")
        hidden_dropout = 0.0
    attention_dropout = reader.dropout("attention_dropout", 0.0)
    if hidden_dropout or attention_dropout:
        reader.warn(
            "transformers drops inside an MLP by mlp_dropout and behind attention by attention_dropout; runs here drop"
            " behind both by hidden_dropout"
        )
    reader.ignore(
        "classifier_pooling",
        "deterministic_flash_attn",
        "sparse_prediction",
        "sparse_pred_ignore_index",
        "reference_compile",
        "repad_logits_with_grad",
        "initializer_cutoff_factor",
        "cls_token_id",
        "sep_token_id",
        "position_embedding_type",
        "layer_norm_eps",
    )
    period = reader.count("global_attn_every_n_layers", 3)
    kinds = reader.words("layer_types", (FULL, SLIDING), length=num_layers) or [
        FULL if layer % period == 0 else SLIDING for layer in range(num_layers)
    ]
    # Tokens at half of local_attention on each side are seen; ours counts a query's own key.
    windows = windows_of(kinds, window_size=reader.count("local_attention", 128) // 2 + 1)
    return {
        **_MASKED,
        **windows,
        "hidden_dropout": hidden_dropout,
        "attention_dropout": attention_dropout,
        "head_dropout": reader.dropout("classifier_dropout", 0.0),
        **_read_bases(reader, has_windows=windows["window_size"] is not None),
        "num_layers": num_layers,
        "hidden_size": reader.count("hidden_size", 768),
        "ffn_hidden_size": reader.count("intermediate_size", 1152),
        "num_attention_heads": heads,
        "num_query_groups": heads,
        "seq_length": positions,
        "max_position_embeddings": positions,
        "vocab_size": reader.count("vocab_size", 50368),
        "norm_epsilon": reader.positive("norm_eps", 1e-5),
        "layernorm_bias": False,
        "embedding_layernorm": True,
        "skip_first_layernorm": True,
        "activation": "geglu",
        "untie_embeddings_and_output_weights": not reader.flag("tie_word_embeddings", default=True),
    }


def _read_bases(reader: ConfigReader, *, has_windows: bool) -> Fields:
    """Take the rotary bases of layers that see everything and of layers with a window."""
    full, local = reader.number("global_rope_theta", 160000.0), reader.number("local_rope_theta", 10000.0)
    groups = reader.group("rope_parameters")
    if groups is not None:
        for kind in (FULL, SLIDING):
            child = groups.group(kind)
            if child is not None:
                child.must_be("rope_type", "default", reason="encoders have no scaling")
                if kind == FULL:
                    full = child.number("rope_theta", full)
                else:
                    local = child.number("rope_theta", local)
                groups.close_group(child)
        reader.close_group(groups)
    reader.ignore("rope_parameters")
    return {"rotary_base": full, "rotary_base_local": local if has_windows else None}


def _write_modern(model: ModelConfig) -> dict[str, Any]:
    windows = find_windows(model)
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": model.num_positions,
        "norm_eps": model.norm_epsilon,
        "layer_types": layer_types_of(model),
        # Of older versions of transformers, which know this pattern only.
        "global_attn_every_n_layers": next((layer for layer in range(1, len(windows)) if windows[layer] is None), 3),
        "local_attention": 2 * ((model.window_size or 65) - 1),
        "global_rope_theta": model.rotary_base,
        "local_rope_theta": model.rotary_base_local or 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "attention_dropout": model.attention_dropout,
        "embedding_dropout": model.hidden_dropout,
        "mlp_dropout": model.hidden_dropout,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
    }


def _modern_names(model: ModelConfig) -> Names:
    fused = f"{_MODERN}attn.Wqkv.weight"
    names: dict[str, Same | FusedQkv | Halves] = {
        "embedding.word_embeddings.weight": Same(name="model.embeddings.tok_embeddings.weight"),
        "embedding.layernorm.weight": Same(name="model.embeddings.norm.weight"),
        "self_attention.linear_qkv.layer_norm_weight": Same(name=f"{_MODERN}attn_norm.weight"),
        "self_attention.linear_qkv.weight": FusedQkv(query=fused, key=fused, value=fused),
        "self_attention.linear_proj.weight": Same(name=f"{_MODERN}attn.Wo.weight"),
        "mlp.linear_fc1.layer_norm_weight": Same(name=f"{_MODERN}mlp_norm.weight"),
        "mlp.linear_fc1.weight": Same(name=f"{_MODERN}mlp.Wi.weight"),
        "mlp.linear_fc2.weight": Same(name=f"{_MODERN}mlp.Wo.weight"),
        "decoder.final_layernorm.weight": Same(name="model.final_norm.weight"),
        "head.dense.weight": Same(name="head.dense.weight"),
        "head.layernorm.weight": Same(name="head.norm.weight"),
        "output_layer.weight": Same(name="decoder.weight"),
        "output_layer.bias": Same(name="decoder.bias"),
    }
    return names


MODERNBERT = Family(
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    names=_modern_names,
    read=_read_modern,
    write=_write_modern,
    tied_copy="decoder.weight",
    heads=MODERNBERT_HEADS,
)
