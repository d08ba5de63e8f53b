"""How weights move: the `optimizer`, `lr_schedule` and `precision` groups."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Decay of the weights that the switches below name, times the learning rate, per step."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_grad: float = 1.0
    """Largest global gradient norm over all ranks; 0 switches clipping off (the norm is still measured)."""
    decay_norms: bool = False
    """Apply weight decay to normalisation weights."""
    decay_biases: bool = False
    """Apply weight decay to biases."""
    decay_embeddings: bool = True
    """Apply weight decay to the input embedding and the position table (and a tied output layer)."""


@dataclass(frozen=True, kw_only=True)
class LrScheduleConfig:
    """Learning rate as a function of the step, from warm-up to the end of decay."""

    style: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape after warm-up; wsd holds the peak, then decays over the last wsd_decay_steps."""
    warmup_steps: int | None = 0
    """Steps of linear rise from 0 to the peak; null means a tenth of the steps up to the end of the decay, at most 100,
    and no more than a wsd_decay_steps that is set leaves."""
    decay_steps: int | None = None
    """Step at which the decay ends; null means training.train_iters."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay and after it."""
    wsd_decay_steps: int | None = None
    """Length of the final decay of wsd; null means a tenth of decay_steps."""
    wsd_decay_style: Literal["linear", "cosine", "sqrt"] = "sqrt"
    """Shape of the final decay of wsd; sqrt is 1 - sqrt(progress) (Haegele et al., 2024)."""


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Number formats. Master weights and optimizer moments are fp32 in every mode."""

    params_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format of weights and activations in the forward and backward pass; fp16 scales the loss dynamically."""
    grad_accumulation_dtype: Literal["fp32", "params_dtype"] = "fp32"
    """Format in which gradients of micro batches are added up and reduced; params_dtype halves its memory and traffic
    in 16-bit training, and loses digits (engine megatron only)."""
    initial_loss_scale: int = 65536
    """fp16: factor of the loss at the start of a run, a power of two."""
    min_loss_scale: int = 1
    """fp16: the factor never falls below this power of two."""
    loss_scale_window: int = 1000
    """fp16: the factor doubles after this many steps in a row without a gradient that is not finite."""
    loss_scale_hysteresis: int = 2
    """fp16: the factor halves with each skipped step, from this one on since it last grew."""
    fp8: Literal["hybrid", "e4m3"] | None = None
    """Format of matrix products in Transformer Engine's layers: e4m3 in both passes, or hybrid with e5m2 for gradients;
    null keeps params_dtype."""
