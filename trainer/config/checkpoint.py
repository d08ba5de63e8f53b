"""The `checkpoint` group."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved, and when."""

    save_interval: int = 500
    """Steps between checkpoints; 0 saves only at the end of the run."""
    async_save: bool = True
    """Stop a step only while the state is copied to host memory, 12 bytes per parameter that a rank saves; a thread
    writes it while training goes on. False stops until all is on the disk."""
    keep_last: int = 3
    """Newest checkpoints that are kept; older ones are deleted after a new one is committed. 0 keeps all."""
    keep_interval: int = 0
    """Checkpoints whose step is a multiple of it are never deleted; 0 means none."""
    keep_best: int = 0
    """Checkpoints with the lowest validation loss that are kept besides, judged by the last validation before each."""
    save_at_end: bool = True
    """Save after the last step and when the run is stopped."""
    verify: bool = True
    """Compare every file's sha256 with the checkpoint's manifest before loading."""
