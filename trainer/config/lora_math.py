"""Count the parameters of adapters and the floating-point operations of training them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.config.lora import LoraConfig, LoraTarget
from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers
from trainer.config.model_math import count_parameters, matrix_parameters_per_token, model_flops_per_token


@dataclass(frozen=True, kw_only=True)
class AdaptedLayer:
    """Hold the shape of a linear layer that can have an adapter, and how many there are."""

    target: LoraTarget
    input_size: int
    output_size: int
    num_parts: int = 1
    """Projections that are fused in it."""
    count: int
    """Of them in the whole model."""
    active: int
    """Of them that a token uses."""


def _list_layers(model: ModelConfig) -> Iterator[AdaptedLayer]:
    """Yield every kind of layer that can have an adapter."""
    hidden, layers, heads = model.hidden_size, model.num_layers, model.num_attention_heads
    everywhere = {"count": layers, "active": layers}

    def of(target: LoraTarget, input_size: int, output_size: int, num_parts: int = 1) -> AdaptedLayer:
        return AdaptedLayer(
            target=target, input_size=input_size, output_size=output_size, num_parts=num_parts, **everywhere
        )

    if model.multi_latent_attention:
        queries = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
        if model.q_lora_rank is None:
            yield of("linear_q_proj", hidden, queries)
        else:
            yield of("linear_q_down_proj", hidden, model.q_lora_rank)
            yield of("linear_q_up_proj", model.q_lora_rank, queries)
        yield of("linear_kv_down_proj", hidden, model.kv_lora_rank + model.qk_pos_emb_head_dim)
        yield of("linear_kv_up_proj", model.kv_lora_rank, heads * (model.qk_head_dim + model.v_head_dim))
        yield of("linear_proj", heads * model.v_head_dim, hidden)
    else:
        yield of("linear_qkv", hidden, (heads + 2 * model.num_query_groups) * model.head_size, 3)
        yield of("linear_proj", heads * model.head_size, hidden)
    sparse = sum(find_moe_layers(model))
    yield from _list_mlp(model, "linear_fc1", "linear_fc2", model.ffn_hidden_size, (layers - sparse, layers - sparse))
    if not sparse:
        return
    if model.moe_shared_expert_intermediate_size:
        width = model.moe_shared_expert_intermediate_size
        yield from _list_mlp(model, "linear_fc1", "linear_fc2", width, (sparse, sparse))
    experts = sparse * (model.num_moe_experts or 0), sparse * model.moe_router_topk
    yield from _list_mlp(model, "experts.linear_fc1", "experts.linear_fc2", find_expert_width(model), experts)


def _list_mlp(
    model: ModelConfig, first: LoraTarget, second: LoraTarget, width: int, counts: tuple[int, int]
) -> Iterator[AdaptedLayer]:
    branches = 2 if model.is_gated else 1
    hidden, (count, active) = model.hidden_size, counts
    yield AdaptedLayer(
        target=first,
        input_size=hidden,
        output_size=branches * width,
        num_parts=branches,
        count=count,
        active=active,
    )
    yield AdaptedLayer(target=second, input_size=width, output_size=hidden, count=count, active=active)


def _count(model: ModelConfig, lora: LoraConfig, *, is_active: bool) -> int:
    total = 0
    for layer in _list_layers(model):
        if layer.target in lora.target_modules:
            num_parts = layer.num_parts if lora.separate_projections else 1
            each = lora.rank * (num_parts * layer.input_size + layer.output_size)
            total += each * (layer.active if is_active else layer.count)
    return total


def count_trained_parameters(model: ModelConfig, lora: LoraConfig, vocab_size: int) -> int:
    """Count the parameters that are trained: all, or those of adapters and of a task's head.

    Args:
        model: shape of the model.
        lora: its adapters.
        vocab_size: rows of the embedding.
    """
    whole = count_parameters(model, vocab_size)
    if not lora.is_on:
        return whole
    head = 0 if model.has_output_layer else whole - count_parameters(_without_head(model), vocab_size)
    return _count(model, lora, is_active=False) + head


def _without_head(model: ModelConfig) -> ModelConfig:
    return replace(model, head="none", pooler="none", num_labels=None)


def trained_flops_per_token(model: ModelConfig, lora: LoraConfig, vocab_size: int) -> int:
    """Count the floating-point operations of training on one token that has a target, see `model_flops_per_token`.

    With adapters, frozen weights need no gradient: each costs 2 operations forward and 2 for the gradient of its input
    instead of 4. Each parameter of an adapter costs 6. Attention without weights costs what it always does.
    """
    whole = model_flops_per_token(model, vocab_size)
    if not lora.is_on:
        return whole
    saved = 2 * matrix_parameters_per_token(model, vocab_size)
    return whole - saved + 6 * _count(model, lora, is_active=True)


def target_flops_per_token(model: ModelConfig, lora: LoraConfig, vocab_size: int) -> int:
    """Count those of `trained_flops_per_token` that a token without a target does not take.

    They are those of the output layer and of the last MLP, unless this has experts.
    """
    if not model.reads_targets_only:
        return 0
    num_parameters = vocab_size * model.hidden_size if model.has_output_layer else 0
    if model.transformer_impl == "torch" and not find_moe_layers(model)[-1]:
        num_parameters += (3 if model.is_gated else 2) * model.hidden_size * model.ffn_hidden_size
    return (4 if lora.is_on else 6) * num_parameters
