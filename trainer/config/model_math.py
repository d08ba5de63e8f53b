"""How many parameters a model has, and how many operations a token costs."""

from trainer.config.model import ModelConfig


def count_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count the parameters of the whole model, over all ranks, each shared one once.

    Args:
        model: shape of the model.
        vocab_size: rows of the embedding; published counts use the vocabulary without padding.
    Returns:
        Number of parameters: weights, biases and norms, and the position table where there is one.
    """
    head = model.head_size
    query_width, group_width = model.num_attention_heads * head, model.num_query_groups * head
    per_norm = model.hidden_size if model.normalization == "RMSNorm" else 2 * model.hidden_size
    layer = _matrix_parameters_per_layer(model) + 2 * per_norm
    if model.add_bias_linear:
        num_branches = 2 if model.activation == "swiglu" else 1
        layer += 2 * model.hidden_size + num_branches * model.ffn_hidden_size
    if model.add_bias_linear or model.add_qkv_bias:
        layer += query_width + 2 * group_width
    if model.qk_layernorm:
        layer += 2 * (head if model.normalization == "RMSNorm" else 2 * head)
    table = vocab_size * model.hidden_size
    total = model.num_layers * layer + per_norm + table
    if model.untie_embeddings_and_output_weights:
        total += table
    if model.position_embedding_type == "learned_absolute":
        total += model.seq_length * model.hidden_size
    return total


def model_flops_per_token(model: ModelConfig, vocab_size: int) -> int:
    """Count the floating-point operations that training on one token needs, forward and backward.

    6 * N_matmul + 6 * num_layers * (num_attention_heads * head_size) * seq_length:
    - N_matmul are the parameters of all matrix products: layers and output layer (tied or not), without embedding
      look-ups, norms and biases. Each costs 2 operations (multiply, add) forward and 4 backward.
    - Attention scores and their weighted sum cost 2 * 2 * seq_length * width per token and layer forward, three times
      that with the backward pass, and half of it counts, since causal attention lets a position see only those
      before it. (PaLM's 12 * L * H * Q * T leaves the halving out; its figures for long sequences are higher.)
    - Work done again by activation recomputation does not count.

    Args:
        model: shape of the model.
        vocab_size: columns of the output layer. Padding does no useful work: pass the vocabulary without it.
    Returns:
        Operations per token. MFU is this, times tokens per second, over the peak operations per second.
    Source: Chowdhery et al. 2022 (PaLM), appendix B; causal halving as in Megatron-LM's num_floating_point_operations
    and Dao et al. 2022 (FlashAttention).
    """
    matmul_parameters = model.num_layers * _matrix_parameters_per_layer(model) + vocab_size * model.hidden_size
    attention = 6 * model.num_layers * model.num_attention_heads * model.head_size * model.seq_length
    return 6 * matmul_parameters + attention


def _matrix_parameters_per_layer(model: ModelConfig) -> int:
    """Weights of the matrix products of one layer: query-key-value, attention output, MLP."""
    attention_width = (2 * model.num_attention_heads + 2 * model.num_query_groups) * model.head_size
    num_mlp_matrices = 3 if model.activation == "swiglu" else 2
    return model.hidden_size * (attention_width + num_mlp_matrices * model.ffn_hidden_size)
