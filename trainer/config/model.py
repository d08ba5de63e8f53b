"""What the model is: the `model` group."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer, in Megatron-Core's terms."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    ffn_hidden_size: int
    """Width inside the MLP; with swiglu the width of each of its two branches."""
    num_attention_heads: int
    """Query heads."""
    num_query_groups: int
    """Key and value heads; equal to num_attention_heads for plain multi-head attention."""
    seq_length: int
    """Tokens of one training sequence."""
    kv_channels: int | None = None
    """Channels of one head; null means hidden_size / num_attention_heads."""
    position_embedding_type: Literal["rope", "learned_absolute"] = "rope"
    """Rotary embeddings, or a learned table of seq_length rows."""
    rotary_base: float = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling_factor: float | None = None
    """Llama 3.1 frequency scaling; null switches it off."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Normalisation in front of attention and MLP, and at the end."""
    norm_epsilon: float = 1e-5
    """Added to the variance before the square root."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """Activation of the MLP: swiglu is gated (three matrices), gelu is not (two)."""
    add_bias_linear: bool = False
    """Biases in all linear layers."""
    add_qkv_bias: bool = False
    """Bias in the query-key-value projection only."""
    qk_layernorm: bool = False
    """Normalise queries and keys per head."""
    untie_embeddings_and_output_weights: bool = True
    """Own weights for the output layer; false shares those of the input embedding."""
    hidden_dropout: float = 0.0
    """Dropout after attention, MLP and embedding."""
    attention_dropout: float = 0.0
    """Dropout on attention probabilities."""
    init_method_std: float = 0.02
    """Standard deviation of the initial weights; output projections get std / sqrt(2 * num_layers)."""
    vocab_size: int | None = None
    """Tokens in the vocabulary; null takes the tokenizer's."""
    make_vocab_size_divisible_by: int = 128
    """The vocabulary is padded to a multiple of this, so it does not depend on the layout."""
    transformer_impl: Literal["torch", "transformer_engine"] = "torch"
    """Layer specification: ours on PyTorch's kernels, or NVIDIA Transformer Engine's."""

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads
