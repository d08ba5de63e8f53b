"""Rules inside the model's shape."""

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
            message=f"is no multiple of model.num_attention_heads={model.num_attention_heads} while model.kv_channels is"
            " null",
            fix=f"use model.hidden_size {join_or(sizes)}, or model.num_attention_heads {join_or(heads)}, or set"
            " model.kv_channels",
        )


@reads("model.num_query_groups", "model.num_attention_heads")
def _groups_divide_heads(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.num_attention_heads % model.num_query_groups:
        groups = nearest_values(model.num_query_groups, divisors(model.num_attention_heads))
        yield Violation(
            path="model.num_query_groups",
            value=model.num_query_groups,
            message=f"does not divide model.num_attention_heads={model.num_attention_heads}",
            fix=f"use {join_or(groups)}",
        )


@reads("model.hidden_size", "model.num_attention_heads", "model.kv_channels", "model.position_embedding_type")
def _rotary_channels_are_even(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.position_embedding_type == "rope" and model.head_size % 2:
        source = "model.hidden_size / model.num_attention_heads" if model.kv_channels is None else "model.kv_channels"
        yield Violation(
            path="model.kv_channels",
            value="null" if model.kv_channels is None else model.kv_channels,
            message=f"gives heads of {model.head_size} channels ({source}), and rotary embeddings turn pairs of channels",
            fix=f"use {join_or(nearest_multiples(model.head_size, 2))}",
        )


@reads("model.rope_scaling_factor", "model.position_embedding_type")
def _scaling_needs_rope(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.rope_scaling_factor is not None and model.position_embedding_type != "rope":
        yield Violation(
            path="model.rope_scaling_factor",
            value=model.rope_scaling_factor,
            message=f"has nothing to scale with model.position_embedding_type={model.position_embedding_type}",
            fix="use null, or model.position_embedding_type=rope",
        )


@reads("model.vocab_size", "tokenizer.path")
def _vocabulary_is_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.model.vocab_size is None and config.tokenizer.path is None:
        yield Violation(
            path="model.vocab_size",
            value="null",
            message="leaves the vocabulary unknown while tokenizer.path is null",
            fix="set tokenizer.path to the tokenizer's model file, or model.vocab_size to a number of tokens",
        )


RULES = (
    _heads_divide_hidden_size,
    _groups_divide_heads,
    _rotary_channels_are_even,
    _scaling_needs_rope,
    _vocabulary_is_known,
)
