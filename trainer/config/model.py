"""Define the `model` group."""

from dataclasses import dataclass, field
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
    """Llama 3.1 frequency scaling; null disables it."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Normalization before attention and MLP, and after the last layer."""
    norm_epsilon: float = 1e-5
    """Added to the variance before the square root."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """Activation of the MLP: swiglu is gated (three matrices), gelu is not (two)."""
    add_bias_linear: bool = False
    """Biases in all linear layers."""
    add_qkv_bias: bool = False
    """Bias in the query-key-value projection only."""
    qk_layernorm: bool = False
    """Normalize queries and keys per head."""
    untie_embeddings_and_output_weights: bool = True
    """Separate weights for the output layer; false shares those of the input embedding."""
    hidden_dropout: float = 0.0
    """Dropout after attention, MLP and embedding."""
    attention_dropout: float = 0.0
    """Dropout on attention probabilities."""
    init_method_std: float = 0.02
    """Standard deviation of the initial weights; output projections get std / sqrt(2 * num_layers)."""
    vocab_size: int | None = None
    """Tokens in the vocabulary; null takes the tokenizer's."""
    make_vocab_size_divisible_by: int = 128
    """Pad the vocabulary to a multiple of this, independent of the layout."""
    transformer_impl: Literal["torch", "transformer_engine"] = "torch"
    """Layer implementation: this project's on PyTorch kernels, or NVIDIA Transformer Engine's."""
    torch_compile: Literal["auto", "always", "never"] = "auto"
    """Fuse the memory-bound operations with torch.compile: norms, SwiGLU, rotary embedding (transformer_impl torch) and
    cross entropy. auto compiles on a GPU, always also on a CPU (for tests; requires a C++ compiler). Results differ by
    rounding."""
    num_moe_experts: int | None = None
    """Experts per mixture-of-experts layer; null makes all layers dense, and the other moe fields have no effect."""
    moe_layer_freq: list[int] = field(default_factory=lambda: [1])
    """Which layers have experts (1) and which a dense MLP of ffn_hidden_size (0); repeated until all layers have one.
    [1] is all of them, [1, 0] every second, from the first."""
    moe_ffn_hidden_size: int | None = None
    """Width inside one expert, counted as ffn_hidden_size is; null means ffn_hidden_size."""
    moe_shared_expert_intermediate_size: int | None = None
    """Width of a shared expert that processes all tokens (of several, their sum); null means none."""
    moe_router_topk: int = 2
    """Experts per token. No token is ever dropped."""
    moe_router_score_function: Literal["softmax", "sigmoid"] = "softmax"
    """Function that turns the router's logits into weights; sigmoid weights are divided by their sum over the chosen
    experts."""
    moe_router_pre_softmax: bool = False
    """Take the softmax over all experts before choosing; false takes it over the chosen ones only."""
    moe_router_topk_scaling_factor: float | None = None
    """Scaling factor of the chosen experts' weights; null means 1."""
    moe_router_dtype: Literal["fp32", "fp64"] | None = "fp32"
    """Data type of the router's logits and weights; null takes that of the activations."""
    moe_router_load_balancing_type: Literal["aux_loss", "seq_aux_loss", "none"] = "aux_loss"
    """Loss that balances the load of experts: aux_loss over the tokens of each micro batch (Switch Transformer, so it
    depends on micro_batch_size), seq_aux_loss over each sequence (DeepSeek-V2)."""
    moe_aux_loss_coeff: float = 0.01
    """Coefficient of that loss."""
    moe_z_loss_coeff: float | None = None
    """Coefficient of the z-loss on large router logits (ST-MoE), such as 0.001; null disables it."""

    @property
    def head_size(self) -> int:
        """Return the channels of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads


def find_moe_layers(model: ModelConfig) -> list[bool]:
    """Return whether each layer, from the first, has experts: `moe_layer_freq` repeated over the layers."""
    if model.num_moe_experts is None:
        return [False] * model.num_layers
    pattern = model.moe_layer_freq
    return [bool(pattern[layer % len(pattern)]) for layer in range(model.num_layers)]


def find_expert_width(model: ModelConfig) -> int:
    """Return the width inside one expert."""
    return model.ffn_hidden_size if model.moe_ffn_hidden_size is None else model.moe_ffn_hidden_size
