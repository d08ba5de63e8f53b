"""Count a model's parameters and its floating-point operations per token."""

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers, find_windows


def count_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count the parameters of the whole model, over all ranks, each shared one once, and all experts.

    Args:
        model: shape of the model.
        vocab_size: rows of the embedding; published counts use the vocabulary without padding.
    Returns:
        Number of parameters: weights, biases and norms, and the position table where there is one.
    """
    return _count_parameters(model, vocab_size, num_experts_per_token=model.num_moe_experts or 0)


def count_active_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count the parameters that are active for one token: of each mixture of experts, those of its experts.

    Takes and returns the same as `count_parameters`, to which it is equal for a dense model.
    """
    return _count_parameters(model, vocab_size, num_experts_per_token=_num_active_experts(model))


def _count_parameters(model: ModelConfig, vocab_size: int, *, num_experts_per_token: int) -> int:
    per_norm = _vectors_per_norm(model) * model.hidden_size
    layer = (4 if model.norm_placement == "both" else 2) * per_norm + _attention_vectors(model)
    table = vocab_size * model.hidden_size
    total = _matrix_parameters(model, num_experts_per_token) + model.num_layers * layer + table
    if model.norm_placement != "sum":
        total += per_norm
    if model.skip_first_layernorm:
        total -= per_norm
    if model.add_bias_linear:
        total += _mlp_biases(model, num_experts_per_token)
    if model.has_own_output_table:
        total += table
    if model.position_embedding_type == "learned_absolute":
        total += model.num_positions * model.hidden_size
    return total + _encoder_parameters(model, vocab_size, per_norm=per_norm)


def _vectors_per_norm(model: ModelConfig) -> int:
    return 2 if model.normalization == "LayerNorm" and model.layernorm_bias else 1


def _encoder_parameters(model: ModelConfig, vocab_size: int, *, per_norm: int) -> int:
    """Count what encoders have beside the layers: token types, a norm of embeddings, a head, a bias per token."""
    total = model.num_tokentypes * model.hidden_size
    if model.embedding_layernorm:
        total += per_norm
    if model.head == "mlm":
        total += model.hidden_size * (model.hidden_size + model.add_bias_linear) + per_norm
    if model.has_output_layer:
        return total + vocab_size * model.vocab_bias
    return total + _task_head_parameters(model, per_norm=per_norm)


def _task_head_parameters(model: ModelConfig, *, per_norm: int) -> int:
    """Count a dense layer before the scores, with its norm, and the layer that scores."""
    total = 0
    if model.pooler == "tanh":
        total += model.hidden_size * (model.hidden_size + 1)
    elif model.pooler == "gelu":
        total += model.hidden_size * (model.hidden_size + model.add_bias_linear) + per_norm
    return total + (model.num_scores or 0) * (model.hidden_size + model.head_bias)


def _attention_vectors(model: ModelConfig) -> int:
    """Count the biases and inner norms of one layer's attention."""
    num_vectors = _vectors_per_norm(model)
    if model.multi_latent_attention:
        return num_vectors * (model.kv_lora_rank + (model.q_lora_rank or 0))
    head = model.head_size
    query_width, group_width = model.num_attention_heads * head, model.num_query_groups * head
    total = model.hidden_size if model.add_bias_linear else 0
    if model.add_bias_linear or model.add_qkv_bias:
        total += query_width + 2 * group_width
    if model.qk_layernorm:
        total += num_vectors * 2 * head if model.qk_layernorm_width == "head" else query_width + group_width
    return total


def model_flops_per_token(model: ModelConfig, vocab_size: int) -> int:
    """Count the floating-point operations of training on one token, forward and backward.

    6 * N_matmul + 6 * (num_attention_heads * head_size) * seq_length for each layer:
    - N_matmul are the parameters of all matrix products: layers and output layer (tied or not), without embedding
      look-ups, norms and biases. Each costs 2 operations (multiply, add) forward and 4 backward. Of experts, only
      those of the token count.
    - Attention scores and their weighted sum cost 2 * 2 * seq_length * width per token and layer forward, three times
      that with the backward pass, and half of it counts, since causal attention lets a position see only those
      before it. (PaLM's 12 * L * H * Q * T leaves the halving out; its figures for long sequences are higher.) A window
      of w keys counts 2 * w - w^2 / seq_length instead of seq_length. Attention to both sides counts all keys.
    - Activation recomputation does not count.

    Args:
        model: shape of the model.
        vocab_size: columns of the output layer, if there is one. Padding is no useful work: pass the unpadded
            vocabulary.
    Returns:
        Operations per token. MFU is this, times tokens per second, over the peak operations per second.
    Source: Chowdhery et al. 2022 (PaLM), appendix B; causal halving as in Megatron-LM's num_floating_point_operations
    and Dao et al. 2022 (FlashAttention).
    """
    keys = sum(_twice_mean_keys(model))
    return 6 * matrix_parameters_per_token(model, vocab_size) + 6 * _score_width(model) * keys


def matrix_parameters_per_token(model: ModelConfig, vocab_size: int) -> int:
    """Count the parameters of all matrix products that a token takes part in: N_matmul of `model_flops_per_token`."""
    total = _matrix_parameters(model, _num_active_experts(model))
    total += vocab_size * model.hidden_size if model.has_output_layer else _token_scores(model)
    return total + (model.hidden_size**2 if model.head == "mlm" else 0)


def _token_scores(model: ModelConfig) -> int:
    """Count the weights of a task head that every token passes; those that a document passes once do not count."""
    if model.head == "classification":
        return 0
    return model.hidden_size * ((model.num_scores or 0) + (model.hidden_size if model.pooler == "gelu" else 0))


def _twice_mean_keys(model: ModelConfig) -> list[int]:
    """Return twice the keys that a query of each layer attends to on average."""
    length = model.seq_length
    windows = [length if window is None else min(window, length) for window in find_windows(model)]
    if model.attention_mask == "causal":
        return [2 * window - window**2 // length for window in windows]
    return [
        2 * length if window == length else 2 * (2 * window - 1) - 2 * window * (window - 1) // length
        for window in windows
    ]


def _score_width(model: ModelConfig) -> int:
    """Return the mean width of a token's queries and of its weighted values, over all heads."""
    if not model.multi_latent_attention:
        return model.num_attention_heads * model.head_size
    return model.num_attention_heads * (model.qk_head_dim + model.qk_pos_emb_head_dim + model.v_head_dim) // 2


def mean_keys_share(model: ModelConfig) -> float:
    """Return the keys that queries attend to on average over the layers, relative to causal attention to everything."""
    keys = _twice_mean_keys(model)
    return sum(keys) / (len(keys) * model.seq_length)


def attention_matrix_parameters(model: ModelConfig) -> int:
    """Count the weights of one layer's attention projections."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    if not model.multi_latent_attention:
        return hidden * (2 * heads + 2 * model.num_query_groups) * model.head_size
    query_width = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    rank = model.q_lora_rank
    queries = hidden * query_width if rank is None else rank * (hidden + query_width)
    down = hidden * (model.kv_lora_rank + model.qk_pos_emb_head_dim)
    up = model.kv_lora_rank * heads * (model.qk_head_dim + model.v_head_dim)
    return queries + down + up + heads * model.v_head_dim * hidden


def _num_active_experts(model: ModelConfig) -> int:
    return 0 if model.num_moe_experts is None else model.moe_router_topk


def _matrix_parameters(model: ModelConfig, num_experts_per_token: int) -> int:
    """Count the weights of the matrix products of all layers: attention projections, MLP or router and experts."""
    num_mlp_matrices = 3 if model.is_gated else 2
    num_moe_layers = sum(find_moe_layers(model))
    expert_width = num_experts_per_token * find_expert_width(model) + (model.moe_shared_expert_intermediate_size or 0)
    dense = num_mlp_matrices * model.ffn_hidden_size
    sparse = num_mlp_matrices * expert_width + (model.num_moe_experts or 0) + model.moe_shared_expert_gate
    width = (model.num_layers - num_moe_layers) * dense + num_moe_layers * sparse
    return model.num_layers * attention_matrix_parameters(model) + model.hidden_size * width


def _mlp_biases(model: ModelConfig, num_experts_per_token: int) -> int:
    """Count the biases of all MLPs, experts and routers."""
    num_branches = 2 if model.is_gated else 1
    num_moe_layers = sum(find_moe_layers(model))
    dense = num_branches * model.ffn_hidden_size + model.hidden_size
    expert = num_branches * find_expert_width(model) + model.hidden_size
    sparse = num_experts_per_token * expert + (model.num_moe_experts or 0)
    return (model.num_layers - num_moe_layers) * dense + num_moe_layers * sparse
