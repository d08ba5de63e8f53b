"""Where dynamic loss scaling stands: what an engine counts and a checkpoint keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossScaleState:
    """Where the dynamic loss scale of fp16 training stands."""

    scale: float
    """Factor of the loss in the next backward pass."""
    num_good_steps: int
    """Steps since the last one that was skipped, or since the scale last grew."""
    num_skips_left: int
    """Skipped steps until the scale falls; 0 or less where each further one halves it."""
