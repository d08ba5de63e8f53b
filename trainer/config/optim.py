"""Define the `optimizer`, `lr_schedule` and `precision` groups."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Weight decay per step, multiplied by the learning rate; the decay_* fields choose the weights."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_grad: float = 1.0
    """Maximum global gradient norm over all ranks; 0 disables clipping (the norm is still measured)."""
    decay_norms: bool = False
    """Apply weight decay to normalization weights."""
    decay_biases: bool = False
    """Apply weight decay to biases."""
    decay_embeddings: bool = True
    """Apply weight decay to the input embedding and the position table (and a tied output layer)."""


@dataclass(frozen=True, kw_only=True)
class LrScheduleConfig:
    """Learning rate as a function of the step, from warmup to the end of the decay."""

    style: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape after warmup; wsd holds the peak, then decays over the last wsd_decay_steps."""
    warmup_steps: int | None = 0
    """Steps of linear warmup from 0 to the peak; null means a tenth of the steps up to the end of the decay, at most
    100, and leaves room for wsd_decay_steps if that is set."""
    decay_steps: int | None = None
    """Step at which the decay ends; null means training.train_iters."""
    min_lr: float | None = 0.0
    """Learning rate at the end of the decay and after it; null means a tenth of optimizer.lr."""
    wsd_decay_steps: int | None = None
    """Length of the final decay of wsd; null means a tenth of decay_steps."""
    wsd_decay_style: Literal["linear", "cosine", "sqrt"] = "sqrt"
    """Shape of the final decay of wsd; sqrt is 1 - sqrt(progress) (Haegele et al., 2024)."""


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Data types. Master weights and optimizer moments are fp32 in every mode."""

    params_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Data type of weights and activations in the forward and backward pass; fp16 scales the loss dynamically."""
    grad_accumulation_dtype: Literal["fp32", "params_dtype"] = "fp32"
    """Data type in which gradients of micro batches are accumulated and reduced; params_dtype halves memory and traffic
    in 16-bit training at the cost of precision (engine megatron only)."""
    initial_loss_scale: int = 65536
    """fp16: initial loss scale, a power of two."""
    min_loss_scale: int = 1
    """fp16: minimum loss scale, a power of two."""
    loss_scale_window: int = 1000
    """fp16: consecutive steps with finite gradients after which the loss scale doubles."""
    loss_scale_hysteresis: int = 2
    """fp16: skipped steps since the loss scale last grew after which each one halves it."""
    fp8: Literal["hybrid", "e4m3"] | None = None
    """FP8 format of matrix products in Transformer Engine's layers: e4m3 in both passes, or hybrid with e5m2 for
    gradients; null uses params_dtype."""
