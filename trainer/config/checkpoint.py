"""The `checkpoint` group."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved, and when."""

    save_interval: int = 500
    """Steps between checkpoints; 0 saves only at the end of the run."""
    keep_last: int = 3
    """Newest checkpoints that are kept; older ones are deleted after a new one is committed. 0 keeps all."""
    save_at_end: bool = True
    """Save after the last step and when the run is stopped."""
    verify: bool = True
    """Compare every file's sha256 with the checkpoint's manifest before loading."""
