"""Define the `model` group."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder or encoder, in Megatron-Core's terms."""

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
    max_position_embeddings: int | None = None
    """Longest sequence that the model is made for, and the rows of a learned position table; null means seq_length.
    Training and fine-tuning may use a shorter seq_length."""
    position_embedding_type: Literal["rope", "learned_absolute"] = "rope"
    """Rotary embeddings, or a learned table of max_position_embeddings rows."""
    rotary_base: float = 10000.0
    """Base of the rotary frequencies."""
    rotary_base_local: float | None = None
    """Base in layers with a window (Gemma 3: 10,000 there, 1,000,000 in the others), where rope_scaling_factor does not
    apply either; null means rotary_base, and scaling in all layers."""
    rope_scaling_factor: float | None = None
    """By how much rotary embeddings stretch the context beyond the length of pretraining; null disables scaling."""
    rope_scaling_type: Literal["llama3", "linear", "yarn"] = "llama3"
    """Which frequencies rope_scaling_factor divides: the low ones with a smooth transition (Llama 3.1), all of them
    (position interpolation), or by the number of turns in the original length (YaRN)."""
    rope_original_max_position_embeddings: int = 8192
    """Length of pretraining before scaling, for llama3 and yarn."""
    rope_low_freq_factor: float = 1.0
    """llama3 divides frequencies fully with wavelengths above the original length over this."""
    rope_high_freq_factor: float = 4.0
    """llama3 keeps frequencies with wavelengths below the original length over this."""
    yarn_beta_fast: float = 32.0
    """yarn keeps frequencies with at least this many turns in the original length."""
    yarn_beta_slow: float = 1.0
    """yarn divides frequencies fully with at most this many turns in the original length."""
    yarn_attention_factor: float | None = None
    """Factor of rotated queries and keys with yarn; null means 0.1 * ln(rope_scaling_factor) + 1, or, where they are
    set, the quotient of the same with yarn_mscale and with yarn_mscale_all_dim before the logarithm."""
    yarn_mscale: float | None = None
    """Numerator of yarn's factor (DeepSeek); null means 1."""
    yarn_mscale_all_dim: float | None = None
    """Denominator of yarn's factor (DeepSeek); with multi_latent_attention its square also scales the scores."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Normalization before attention and MLP, and after the last layer."""
    layernorm_bias: bool = True
    """Biases of LayerNorm; ModernBERT has none. RMSNorm never has."""
    norm_epsilon: float = 1e-5
    """Added to the variance before the square root."""
    layernorm_zero_centered_gamma: bool = False
    """Norms multiply by 1 + weight, and weights begin at 0 (Gemma)."""
    norm_placement: Literal["pre", "branch", "both", "sum"] = "pre"
    """Where layers normalize: the inputs of attention and MLP (pre), their outputs before they are added (branch,
    OLMo 2), both (Gemma 2 and 3), or the sums, without a norm after the last layer (sum, BERT)."""
    skip_first_layernorm: bool = False
    """No norm before the attention of the first layer (ModernBERT, whose embeddings are normalized)."""
    activation: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh"] = "swiglu"
    """Activation of the MLP: swiglu and geglu are gated (three matrices), gelu is not (two). _tanh approximates the
    error function (GPT-2, Gemma)."""
    add_bias_linear: bool = False
    """Biases in all linear layers."""
    add_qkv_bias: bool = False
    """Bias in the query-key-value projection only."""
    qk_layernorm: bool = False
    """Normalize queries and keys."""
    qk_layernorm_width: Literal["head", "all"] = "head"
    """What qk_layernorm normalizes: each head alone (Qwen 3), or all heads of a token together (OLMo 2)."""
    attention_mask: Literal["causal", "bidirectional"] = "causal"
    """Which tokens a token attends to: those up to itself, or all of its document (encoders)."""
    window_size: int | None = None
    """Keys that a query attends to in layers with a sliding window, its own included, and with bidirectional attention
    as many on the other side; null means no limit."""
    window_attn_skip_freq: list[int] = field(default_factory=lambda: [1])
    """Which layers have the window (1) and which attend to everything (0); repeated until all layers have one. [1] is
    all of them (Mistral), [1, 0] every second, from the first (Gemma 2), [1, 1, 1, 1, 1, 0] Gemma 3."""
    softmax_scale: float | None = None
    """Factor of attention scores; null means 1 / sqrt(channels of a head)."""
    attn_logit_softcapping: float | None = None
    """Bound of attention scores: cap * tanh(score / cap) (Gemma 2); null means none."""
    final_logit_softcapping: float | None = None
    """Bound of the output logits, likewise; null means none."""
    embedding_scale: float | None = None
    """Factor of the token embeddings (Gemma: sqrt(hidden_size)); null means 1."""
    embedding_layernorm: bool = False
    """Normalize the sum of the embeddings (BERT)."""
    num_tokentypes: int = 0
    """Rows of a table of token types, which tell the first text of a pair from the second (BERT: 2); 0 for none."""
    head: Literal["lm", "mlm", "classification", "token_classification", "question_answering", "none"] = "lm"
    """What follows the last layer. lm: the output layer. mlm: a dense layer, GELU and a norm, then the output layer
    (BERT). The others have no output layer, and untie_embeddings_and_output_weights and vocab_bias have no effect:
    classification scores each document by num_labels classes, token_classification each token, question_answering
    each token as the first and as the last of an answer; none returns hidden states."""
    num_labels: int | None = None
    """Scores per document or token; required by classification and token_classification (1 predicts a number). With
    question_answering it has no effect: there are 2."""
    pooling: Literal["first", "last", "mean"] = "first"
    """What classification sees of a document: its first token (BERT), its last (decoders) or the mean of all."""
    pooler: Literal["none", "tanh", "gelu"] = "none"
    """Layers between hidden states and scores: none, a dense layer and tanh (tanh, BERT's pooler; classification only),
    or a dense layer, GELU and a norm (gelu, ModernBERT)."""
    head_dropout: float = 0.0
    """Dropout before the layer that scores."""
    head_bias: bool = True
    """A bias in the layer that scores; transformers' classifiers on decoders have none."""
    vocab_bias: bool = False
    """A bias per token in the output layer (BERT)."""
    multi_latent_attention: bool = False
    """Keys and values come from one compressed vector per token (MLA, DeepSeek-V2); num_query_groups must be
    num_attention_heads, and kv_channels has no effect."""
    q_lora_rank: int | None = None
    """Channels of the compressed queries (MLA); null projects queries at once."""
    kv_lora_rank: int = 512
    """Channels of the compressed keys and values (MLA)."""
    qk_head_dim: int = 128
    """Channels of a query or key head without positions (MLA)."""
    qk_pos_emb_head_dim: int = 64
    """Channels of a query or key head with rotary positions, which all key heads share (MLA)."""
    v_head_dim: int = 128
    """Channels of a value head (MLA)."""
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
    moe_shared_expert_gate: bool = False
    """Weight the shared expert's output by a sigmoid of the token (Qwen2-MoE)."""
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
    moe_router_num_groups: int | None = None
    """Equal groups of experts, of which each token uses moe_router_group_topk (DeepSeek-V3); null means no groups."""
    moe_router_group_topk: int | None = None
    """Groups per token, chosen by the sum of their best moe_router_topk / moe_router_group_topk scores."""
    moe_router_enable_expert_bias: bool = False
    """Add a bias per expert when experts are chosen, not to their weights; it follows the load instead of a gradient
    (DeepSeek-V3, arXiv:2408.15664). Requires the sigmoid score function."""
    moe_router_bias_update_rate: float = 1e-3
    """How far that bias moves after each step: up for experts with less than the mean load, down for the others."""
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

    @property
    def is_gated(self) -> bool:
        """Return whether the MLP multiplies an activated branch with a second one."""
        return self.activation in ("swiglu", "geglu", "geglu_tanh")

    @property
    def has_output_layer(self) -> bool:
        """Return whether the model predicts tokens."""
        return self.head in ("lm", "mlm")

    @property
    def reads_targets_only(self) -> bool:
        """Return whether the loss reads hidden states of the last layer only at positions that have a target."""
        reads_first_tokens = self.head == "classification" and self.pooling == "first"
        return self.has_output_layer or self.head == "token_classification" or reads_first_tokens

    @property
    def has_own_output_table(self) -> bool:
        """Return whether there is an output layer with weights of its own."""
        return self.has_output_layer and self.untie_embeddings_and_output_weights

    @property
    def num_scores(self) -> int | None:
        """Return the scores per document or token of a task head; None for a model without one."""
        if self.head == "question_answering":
            return 2
        return self.num_labels if self.head in ("classification", "token_classification") else None

    @property
    def num_positions(self) -> int:
        """Return the longest sequence that the model is made for."""
        return self.max_position_embeddings or self.seq_length


def find_moe_layers(model: ModelConfig) -> list[bool]:
    """Return whether each layer, from the first, has experts: `moe_layer_freq` repeated over the layers."""
    if model.num_moe_experts is None:
        return [False] * model.num_layers
    pattern = model.moe_layer_freq
    return [bool(pattern[layer % len(pattern)]) for layer in range(model.num_layers)]


def find_expert_width(model: ModelConfig) -> int:
    """Return the width inside one expert."""
    return model.ffn_hidden_size if model.moe_ffn_hidden_size is None else model.moe_ffn_hidden_size


def find_windows(model: ModelConfig) -> list[int | None]:
    """Return each layer's window in keys, from the first layer; None attends to everything."""
    pattern = model.window_attn_skip_freq
    has_window = [bool(pattern[layer % len(pattern)]) for layer in range(model.num_layers)]
    return [model.window_size if has else None for has in has_window]
