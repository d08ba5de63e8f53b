"""List the tensors of a model as Trireme's checkpoints name and shape them, without building the model.

h: hidden size, v: vocabulary, d: channels of a head, f: width of one branch of the MLP, L: layers, E: experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers


@dataclass(frozen=True, kw_only=True)
class NativeTensor:
    """Hold the part of a checkpoint's tensor that is one parameter of one layer, or a tensor outside the layers."""

    name: str
    """Relative to its layer, such as `self_attention.linear_qkv.weight`; the whole name outside the layers."""
    layer: int | None = None
    """Number of its layer, from 0; None outside the layers."""
    expert: int | None = None
    """Number of its expert, from 0; None outside the experts."""
    key: str
    """Name of the checkpoint's tensor, in which Megatron-Core may stack layers and experts."""
    stacked_shape: tuple[int, ...] = ()
    """Sizes of those leading axes."""
    place: tuple[int, ...] = ()
    """Index of this part on them."""
    shape: tuple[int, ...]
    """Of this part."""


def list_native_tensors(model: ModelConfig, *, padded_vocab_size: int) -> list[NativeTensor]:
    """List all tensors of a model, in the order of its computation.

    The names are those of Megatron-Core's `GPTModel.sharded_state_dict`. Layers are stacked along a leading axis unless
    some have experts and others do not (or, with experts, the frequency is given as a list).
    """
    h, v = model.hidden_size, padded_vocab_size
    tensors = [NativeTensor(name=(name := "embedding.word_embeddings.weight"), key=name, shape=(v, h))]
    if model.position_embedding_type == "learned_absolute":
        name = "embedding.position_embeddings.weight"
        tensors.append(NativeTensor(name=name, key=name, shape=(model.num_positions, h)))
    if model.num_tokentypes:
        name = "embedding.tokentype_embeddings.weight"
        tensors.append(NativeTensor(name=name, key=name, shape=(model.num_tokentypes, h)))
    if model.embedding_layernorm:
        tensors += _list_norm(model, "embedding.layernorm.")
    for layer, has_experts in enumerate(find_moe_layers(model)):
        tensors += _list_layer(model, layer, has_experts=has_experts)
    if model.norm_placement != "sum":
        tensors += _list_norm(model, "decoder.final_layernorm.")
    if model.head == "mlm":
        tensors.append(NativeTensor(name=(name := "head.dense.weight"), key=name, shape=(h, h)))
        if model.add_bias_linear:
            tensors.append(NativeTensor(name=(name := "head.dense.bias"), key=name, shape=(h,)))
        tensors += _list_norm(model, "head.layernorm.")
    tensors += _list_task_head(model)
    if model.has_own_output_table:
        tensors.append(NativeTensor(name=(name := "output_layer.weight"), key=name, shape=(v, h)))
    if model.vocab_bias and model.has_output_layer:
        tensors.append(NativeTensor(name=(name := "output_layer.bias"), key=name, shape=(v,)))
    return tensors


def _list_task_head(model: ModelConfig) -> list[NativeTensor]:
    """List the tensors of a head without an output layer."""
    if model.has_output_layer:
        return []
    h, named = model.hidden_size, list[Shaped]()
    if model.pooler == "tanh":
        named += [("head.pooler.weight", (h, h)), ("head.pooler.bias", (h,))]
    elif model.pooler == "gelu":
        named.append(("head.dense.weight", (h, h)))
        if model.add_bias_linear:
            named.append(("head.dense.bias", (h,)))
        named += _norm(model, "head.layernorm.")
    if model.num_scores is not None:
        named.append(("head.classifier.weight", (model.num_scores, h)))
        if model.head_bias:
            named.append(("head.classifier.bias", (model.num_scores,)))
    return [NativeTensor(name=name, key=name, shape=shape) for name, shape in named]


def _list_norm(model: ModelConfig, prefix: str) -> list[NativeTensor]:
    return [NativeTensor(name=name, key=name, shape=shape) for name, shape in _norm(model, prefix)]


def has_stacked_layers(model: ModelConfig) -> bool:
    """Return whether the checkpoint stacks the layers: not if their kinds differ (Megatron-Core's rule)."""
    if model.skip_first_layernorm:
        return False
    return (len(set(find_moe_layers(model))) == 1 and model.moe_layer_freq == [1]) or model.num_moe_experts is None


def _list_layer(model: ModelConfig, layer: int, *, has_experts: bool) -> list[NativeTensor]:
    """List the tensors of one layer."""
    is_stacked = has_stacked_layers(model)
    tensors = []
    has_input_norm = not (model.skip_first_layernorm and layer == 0)
    for name, shape in (*_attention(model), *_mlp(model, has_experts=has_experts)):
        if not has_input_norm and name.startswith("self_attention.linear_qkv.layer_norm_"):
            continue
        key = f"decoder.layers.{name}" if is_stacked else f"decoder.layers.{layer}.{name}"
        layers, place = ((model.num_layers,), (layer,)) if is_stacked else ((), ())
        if ".experts.experts." not in name:
            tensors.append(
                NativeTensor(name=name, layer=layer, key=key, stacked_shape=layers, place=place, shape=shape)
            )
            continue
        assert model.num_moe_experts is not None
        for expert in range(model.num_moe_experts):
            tensors.append(
                NativeTensor(
                    name=name,
                    layer=layer,
                    expert=expert,
                    key=key,
                    stacked_shape=(*layers, model.num_moe_experts),
                    place=(*place, expert),
                    shape=shape,
                )
            )
    return tensors


Shaped = tuple[str, tuple[int, ...]]


def _norm(model: ModelConfig, prefix: str, width: int | None = None) -> Iterator[Shaped]:
    """Yield the weight of a norm, and its bias where there is one; `prefix` ends before `weight`."""
    yield prefix + "weight", (width or model.hidden_size,)
    if model.normalization == "LayerNorm" and model.layernorm_bias:
        yield prefix + "bias", (width or model.hidden_size,)


def _attention(model: ModelConfig) -> Iterator[Shaped]:
    h, n, g, d = model.hidden_size, model.num_attention_heads, model.num_query_groups, model.head_size
    if model.multi_latent_attention:
        yield from _latent_attention(model)
        return
    if model.norm_placement in ("pre", "both"):
        yield from _norm(model, "self_attention.linear_qkv.layer_norm_")
    yield "self_attention.linear_qkv.weight", ((n + 2 * g) * d, h)
    if model.add_bias_linear or model.add_qkv_bias:
        yield "self_attention.linear_qkv.bias", ((n + 2 * g) * d,)
    if model.qk_layernorm:
        is_wide = model.qk_layernorm_width == "all"
        yield from _norm(model, "self_attention.q_layernorm.", n * d if is_wide else d)
        yield from _norm(model, "self_attention.k_layernorm.", g * d if is_wide else d)
    yield "self_attention.linear_proj.weight", (h, n * d)
    if model.add_bias_linear:
        yield "self_attention.linear_proj.bias", (h,)
    if model.norm_placement != "pre":
        yield from _norm(model, "post_self_attn_layernorm.")


def _latent_attention(model: ModelConfig) -> Iterator[Shaped]:
    """Yield the tensors of multi-latent attention; queries have positionless and rotary channels."""
    h, n = model.hidden_size, model.num_attention_heads
    query = n * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    yield from _norm(model, "input_layernorm.")
    if model.q_lora_rank is None:
        yield "self_attention.linear_q_proj.weight", (query, h)
    else:
        yield "self_attention.linear_q_down_proj.weight", (model.q_lora_rank, h)
        yield from _norm(model, "self_attention.q_layernorm.", model.q_lora_rank)
        yield "self_attention.linear_q_up_proj.weight", (query, model.q_lora_rank)
    yield "self_attention.linear_kv_down_proj.weight", (model.kv_lora_rank + model.qk_pos_emb_head_dim, h)
    yield from _norm(model, "self_attention.kv_layernorm.", model.kv_lora_rank)
    yield "self_attention.linear_kv_up_proj.weight", (n * (model.qk_head_dim + model.v_head_dim), model.kv_lora_rank)
    yield "self_attention.linear_proj.weight", (h, n * model.v_head_dim)


def _mlp(model: ModelConfig, *, has_experts: bool) -> Iterator[Shaped]:
    if model.norm_placement in ("pre", "both"):
        yield from _norm(model, "pre_mlp_layernorm." if has_experts else "mlp.linear_fc1.layer_norm_")
    if has_experts:
        yield from _experts(model)
    else:
        yield from _matrices(model, "mlp.", model.ffn_hidden_size)
    if model.norm_placement != "pre":
        yield from _norm(model, "post_mlp_layernorm.")


def _experts(model: ModelConfig) -> Iterator[Shaped]:
    h = model.hidden_size
    assert model.num_moe_experts is not None
    yield "mlp.router.weight", (model.num_moe_experts, h)
    if model.add_bias_linear:
        yield "mlp.router.bias", (model.num_moe_experts,)
    if model.moe_router_enable_expert_bias:
        yield "mlp.router.expert_bias", (model.num_moe_experts,)
    yield from _matrices(model, "mlp.experts.experts.", find_expert_width(model))
    if model.moe_shared_expert_intermediate_size is not None:
        yield from _matrices(model, "mlp.shared_experts.", model.moe_shared_expert_intermediate_size)
        if model.moe_shared_expert_gate:
            yield "mlp.shared_experts.gate_weight", (1, h)


def _matrices(model: ModelConfig, prefix: str, width: int) -> Iterator[Shaped]:
    h, rows = model.hidden_size, (2 if model.is_gated else 1) * width
    yield f"{prefix}linear_fc1.weight", (rows, h)
    if model.add_bias_linear:
        yield f"{prefix}linear_fc1.bias", (rows,)
    yield f"{prefix}linear_fc2.weight", (h, width)
    if model.add_bias_linear:
        yield f"{prefix}linear_fc2.bias", (h,)
