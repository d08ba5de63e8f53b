"""Scale the loss dynamically: fp16 gradients below 6e-8 are zero, so the loss is scaled as high as fp16 allows."""

import torch
from megatron.core.optimizer.grad_scaler import DynamicGradScaler

from trainer.config.optim import PrecisionConfig
from trainer.engine.base import LossScaleState


class LossScale:
    """Use Megatron-Core's dynamic scaler for every engine, so that all skip the same steps and try the same scales.

    DeepSpeed's own scaler grows a step later, and unscales with the new scale gradients that were scaled with the old.
    """

    def __init__(self, precision: PrecisionConfig) -> None:
        self._scaler = DynamicGradScaler(
            initial_scale=float(precision.initial_loss_scale),
            min_scale=float(precision.min_loss_scale),
            growth_factor=2.0,
            backoff_factor=0.5,
            growth_interval=precision.loss_scale_window,
            hysteresis=precision.loss_scale_hysteresis,
        )

    @property
    def value(self) -> float:
        """Factor of the loss in the next backward pass."""
        return float(self._scaler.scale)

    def multiply(self, loss: torch.Tensor) -> torch.Tensor:
        """Scale a loss: `TransformerConfig.grad_scale_func`."""
        return loss * self._scaler.scale

    def update(self, *, is_skipped: bool) -> None:
        """Adapt the scale to whether a step's gradients were finite."""
        self._scaler.update(is_skipped)

    @property
    def state(self) -> LossScaleState:
        """State for a checkpoint."""
        state = self._scaler.state_dict()
        return LossScaleState(
            scale=float(state["scale"]),
            num_good_steps=state["growth_tracker"],
            num_skips_left=state["hysteresis_tracker"],
        )

    def restore(self, state: LossScaleState) -> None:
        """Restore the state from a checkpoint."""
        self._scaler.load_state_dict(
            {
                "scale": torch.tensor([state.scale]),
                "growth_tracker": state.num_good_steps,
                "hysteresis_tracker": state.num_skips_left,
            }
        )


def build_loss_scale(precision: PrecisionConfig) -> LossScale | None:
    """Build the loss scale if the data types need one."""
    return LossScale(precision) if precision.params_dtype == "fp16" else None
