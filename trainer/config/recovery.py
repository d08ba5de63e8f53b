"""The `recovery` group."""

from dataclasses import dataclass
from typing import Literal

from trireme.config.path_text import PathText

Reaction = Literal["off", "warn", "act"]


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What a run does about training that goes wrong: see docs/failure.md."""

    max_skipped_steps: int = 10
    """Steps in a row whose update is left out, because loss or gradient is not finite, before the run goes back to the
    last good checkpoint; 0 never does. Steps by which fp16 finds its loss scale do not count."""
    max_rollbacks: int = 3
    """Times that the run goes back because of one place; when it has still not got past it, it ends (exit code 82)."""
    loss_spike: Reaction = "warn"
    """A loss far above those before: act goes back to a checkpoint before it, leaves out the samples of that stretch
    and goes on; warn only says so."""
    grad_norm_spike: Reaction = "off"
    """The same for the norm of the gradient, judged by its logarithm."""
    spike_window: int = 128
    """Steps whose median says what is usual; half as many must be there before a spike is looked for."""
    spike_threshold: float = 8.0
    """A spike is this many robust standard deviations (1.4826 * median absolute deviation) above the median."""
    spike_min_rise: float = 0.1
    """And at least so far above it, in nats of the loss or of the logarithm of the gradient's norm."""
    spike_patience: int = 3
    """Steps in a row that must be spikes."""
    skip_steps_before: int = 10
    """Steps before the first bad one whose samples are left out, too, and before which the checkpoint must lie."""
    skip_steps_after: int = 0
    """Steps behind the last bad one whose samples are left out, too."""
    replay: PathText | None = None
    """recovery.jsonl of a run, or that run's directory: the samples that it left out and the updates that it skipped
    are left out here from the start. Gives the losses that it had in the end, bit for bit. null for none."""
