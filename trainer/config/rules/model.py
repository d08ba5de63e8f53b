"""Check the model's shape."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values
from trireme.errors import Violation


@reads("model.hidden_size", "model.num_attention_heads", "model.kv_channels")
def _heads_divide_hidden_size(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
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


@reads("model.hidden_size", "model.num_attention_heads", "model.kv_channels", "model.position_embedding_type")
def _rotary_channels_are_even(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
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


@reads("model.vocab_size", "tokenizer.path")
def _vocabulary_is_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.model.vocab_size is None and config.tokenizer.path is None:
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
    _vocabulary_is_known,
)
