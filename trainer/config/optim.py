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
    warmup_steps: int = 0
    """Steps of linear rise from 0 to the peak."""
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

    params_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format of weights and activations in the forward and backward pass."""
    grad_accumulation_dtype: Literal["fp32"] = "fp32"
    """Format in which gradients of micro batches are added up and reduced."""
