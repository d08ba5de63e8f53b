"""Check the model's shape."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config.missing_checkpoint import find_missing_checkpoint
from trainer.config.pretrained import PRETRAINED
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values, to_yaml
from trireme.errors import Violation

_LATENT = "model.multi_latent_attention"
_TP = "parallel.tensor_model_parallel_size"
_PATTERN = "model.window_attn_skip_freq"


@reads("model.hidden_size", "model.num_attention_heads", "model.kv_channels", _LATENT)
def _heads_divide_hidden_size(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if not model.multi_latent_attention and model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        sizes = nearest_multiples(model.hidden_size, model.num_attention_heads)
        heads = nearest_values(model.num_attention_heads, divisors(model.hidden_size), count=4)
        yield Violation(
            path="model.hidden_size",
            value=model.hidden_size,
            message=f"must be a multiple of model.num_attention_heads={model.num_attention_heads} when"
            " model.kv_channels=null",
            fix=f"Use {join_or(sizes)}, or set model.num_attention_heads to {join_or(heads)}, or set"
            " model.kv_channels.",
        )


@reads("model.num_query_groups", "model.num_attention_heads")
def _groups_divide_heads(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.num_attention_heads % model.num_query_groups:
        groups = nearest_values(model.num_query_groups, divisors(model.num_attention_heads))
        yield Violation(
            path="model.num_query_groups",
            value=model.num_query_groups,
            message=f"must divide model.num_attention_heads={model.num_attention_heads}",
            fix=f"Use {join_or(groups)}.",
        )


@reads("model.hidden_size", "model.num_attention_heads", "model.kv_channels", "model.position_embedding_type", _LATENT)
def _rotary_channels_are_even(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.multi_latent_attention:
        return
    if model.position_embedding_type == "rope" and model.head_size % 2:
        rule = "must be even: rotary embeddings rotate pairs of channels"
        if model.kv_channels is None:
            quotient = f"model.hidden_size / model.num_attention_heads = {model.head_size}"
            rule = f"must be set: {quotient} is odd, and rotary embeddings rotate pairs of channels"
        yield Violation(
            path="model.kv_channels",
            value="null" if model.kv_channels is None else model.kv_channels,
            message=rule,
            fix=f"Use {join_or(nearest_multiples(model.head_size, 2))}.",
        )


@reads("model.rope_scaling_factor", "model.position_embedding_type")
def _scaling_needs_rope(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.rope_scaling_factor is not None and model.position_embedding_type != "rope":
        yield Violation(
            path="model.rope_scaling_factor",
            value=model.rope_scaling_factor,
            message="requires model.position_embedding_type=rope",
            fix="Use null, or model.position_embedding_type=rope.",
        )


@reads("model.rope_low_freq_factor", "model.rope_high_freq_factor", "model.rope_scaling_type")
def _scaling_has_a_transition(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    low, high = config.model.rope_low_freq_factor, config.model.rope_high_freq_factor
    if config.model.rope_scaling_type == "llama3" and high <= low:
        yield Violation(
            path="model.rope_high_freq_factor",
            value=high,
            message=f"must be above model.rope_low_freq_factor={low:g}: frequencies between the two change gradually",
            fix=f"Use {4 * low:g}, or set model.rope_low_freq_factor below {high:g}.",
        )


@reads("model.max_position_embeddings", "model.seq_length")
def _sequences_have_positions(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    positions, length = config.model.max_position_embeddings, config.model.seq_length
    if positions is not None and positions < length:
        yield Violation(
            path="model.seq_length",
            value=length,
            message=f"must be at most model.max_position_embeddings={positions}",
            fix=f"Use {positions} or less, or set model.max_position_embeddings to {length}.",
        )


@reads("model.window_size", _PATTERN, "model.rotary_base_local", "model.position_embedding_type")
def _windows_have_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    pattern = model.window_attn_skip_freq
    if not pattern or set(pattern) - {0, 1}:
        yield Violation(
            path=_PATTERN,
            value=to_yaml(pattern),
            message="must be a list of 1 for a layer with a window and 0 for one without",
            fix="Use [1] for windows in all layers, or [1, 0] for every second layer.",
        )
    elif model.window_size is not None and not any(pattern):
        yield Violation(
            path=_PATTERN,
            value=to_yaml(pattern),
            message=f"must give at least one layer the window of model.window_size={model.window_size}",
            fix="Use [1], or set model.window_size to null.",
        )
    if model.rotary_base_local is None:
        return
    if model.window_size is None:
        yield Violation(
            path="model.rotary_base_local",
            value=model.rotary_base_local,
            message="requires model.window_size: it is the base of the layers with a window",
            fix="Use null, or set model.window_size.",
        )
    if model.position_embedding_type != "rope":
        yield Violation(
            path="model.rotary_base_local",
            value=model.rotary_base_local,
            message="requires model.position_embedding_type=rope",
            fix="Use null, or model.position_embedding_type=rope.",
        )


@reads(
    "model.qk_layernorm",
    "model.qk_layernorm_width",
    "model.normalization",
    "model.layernorm_zero_centered_gamma",
)
def _norms_of_all_heads_are_rms(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.qk_layernorm_width != "all":
        return
    if not model.qk_layernorm:
        yield Violation(
            path="model.qk_layernorm_width",
            value="all",
            message="requires model.qk_layernorm=true",
            fix="Use head, or model.qk_layernorm=true.",
        )
    elif model.normalization != "RMSNorm" or model.layernorm_zero_centered_gamma:
        yield Violation(
            path="model.qk_layernorm_width",
            value="all",
            message="requires model.normalization=RMSNorm and model.layernorm_zero_centered_gamma=false",
            fix="Use head, or those two.",
        )


@reads(
    _LATENT,
    "model.position_embedding_type",
    "model.num_query_groups",
    "model.num_attention_heads",
    "model.qk_layernorm",
    "model.add_qkv_bias",
    "model.add_bias_linear",
    "model.rotary_base_local",
    "model.qk_pos_emb_head_dim",
)
def _latent_attention_is_complete(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if not model.multi_latent_attention:
        return
    for name, needed in (
        ("position_embedding_type", "rope"),
        ("num_query_groups", model.num_attention_heads),
        ("qk_layernorm", False),
        ("add_qkv_bias", False),
        ("add_bias_linear", False),
        ("rotary_base_local", None),
    ):
        value = getattr(model, name)
        if value != needed:
            yield Violation(
                path=f"model.{name}",
                value=to_yaml(value),
                message=f"must be {to_yaml(needed)} with {_LATENT}=true",
                fix=f"Use {to_yaml(needed)}, or {_LATENT}=false.",
            )
    if model.qk_pos_emb_head_dim % 2:
        yield Violation(
            path="model.qk_pos_emb_head_dim",
            value=model.qk_pos_emb_head_dim,
            message="must be even: rotary embeddings rotate pairs of channels",
            fix=f"Use {join_or(nearest_multiples(model.qk_pos_emb_head_dim, 2))}.",
        )


@reads(_LATENT, _TP, "model.q_lora_rank", "model.kv_lora_rank", "model.qk_pos_emb_head_dim")
def _compressed_channels_are_cut_evenly(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model, tp_size = config.model, config.parallel.tensor_model_parallel_size
    if not model.multi_latent_attention:
        return
    widths = {"model.kv_lora_rank + model.qk_pos_emb_head_dim": model.kv_lora_rank + model.qk_pos_emb_head_dim}
    if model.q_lora_rank is not None:
        widths["model.q_lora_rank"] = model.q_lora_rank
    for name, width in widths.items():
        if width % tp_size:
            yield Violation(
                path=_TP,
                value=tp_size,
                message=f"must divide {name}={width}",
                fix=f"Use {join_or(nearest_values(tp_size, divisors(width)))}.",
            )


@reads("model.skip_first_layernorm", "model.norm_placement")
def _skipped_norm_exists(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.skip_first_layernorm and model.norm_placement not in ("pre", "both"):
        yield Violation(
            path="model.skip_first_layernorm",
            value="true",
            message=f"must be false with model.norm_placement={model.norm_placement}: no layer normalizes its input",
            fix="Use false, or model.norm_placement=pre.",
        )


_TORCH_ONLY: dict[str, object] = {
    "rotary_base_local": None,
    "layernorm_zero_centered_gamma": False,
    "norm_placement": "pre",
    "qk_layernorm_width": "head",
    "attention_mask": "causal",
    "layernorm_bias": True,
    "skip_first_layernorm": False,
    "embedding_layernorm": False,
    "num_tokentypes": 0,
    "head": "lm",
    "vocab_bias": False,
    "window_size": None,
    "attn_logit_softcapping": None,
    "multi_latent_attention": False,
}
"""Fields that Transformer Engine's layers do not have here, with the value that they take for granted."""


@reads("model.transformer_impl", "model.activation", *(f"model.{name}" for name in _TORCH_ONLY))
def _parts_exist_in_transformer_engine(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.transformer_impl != "transformer_engine":
        return
    found = {name: getattr(model, name) for name, needed in _TORCH_ONLY.items() if getattr(model, name) != needed}
    if model.activation not in ("swiglu", "gelu"):
        found["activation"] = model.activation
    for name, value in found.items():
        needed = to_yaml(_TORCH_ONLY[name]) if name in _TORCH_ONLY else "swiglu or gelu"
        yield Violation(
            path=f"model.{name}",
            value=to_yaml(value),
            message="not supported with model.transformer_impl=transformer_engine",
            fix=f"Use {needed}, or model.transformer_impl=torch.",
        )


@reads("model.vocab_size", "tokenizer.path", PRETRAINED)
def _vocabulary_is_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """A checkpoint to start from brings the model and the tokenizer, if it can be read."""
    if config.model.vocab_size is None and config.tokenizer.path is None:
        checkpoint = config.pretrained_checkpoint
        problem = find_missing_checkpoint(Path(checkpoint)) if checkpoint is not None else None
        if problem is not None:
            yield problem
            return
        yield Violation(
            path="model.vocab_size",
            value="null",
            message="must be set when tokenizer.path=null",
            fix="Set it to the number of tokens, or set tokenizer.path to the tokenizer's model file.",
        )


RULES = (
    _heads_divide_hidden_size,
    _groups_divide_heads,
    _rotary_channels_are_even,
    _scaling_needs_rope,
    _scaling_has_a_transition,
    _sequences_have_positions,
    _windows_have_layers,
    _norms_of_all_heads_are_rms,
    _latent_attention_is_complete,
    _compressed_channels_are_cut_evenly,
    _skipped_norm_exists,
    _parts_exist_in_transformer_engine,
    _vocabulary_is_known,
)
