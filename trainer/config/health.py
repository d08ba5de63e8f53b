"""The `health` group."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """How a run watches itself. That a process which dies ends the others is not configured: it always does."""

    watchdog: bool = True
    """End a run that no longer gets on, and name the rank that holds it up and where (exit code 79)."""
    heartbeat_seconds: float = 1.0
    """Seconds between a rank's words to the others about where it stands."""
    hang_step_multiple: float = 20.0
    """A step that takes this many times the median of the last ones is a hang, if it also takes hang_min_seconds."""
    hang_min_seconds: float = 120.0
    """No step is a hang before it has taken this long."""
    startup_seconds: float = 3600.0
    """Longest time from the start to the end of the first step: building, loading, compiling, the first collectives."""
    validation_seconds: float = 3600.0
    """Longest validation."""
    checkpoint_seconds: float = 3600.0
    """Longest time that saving a checkpoint may keep the run from its next step."""
    straggler_interval: int = 100
    """Steps over which the time that each rank computed is compared with the others'; 0 switches it off."""
    straggler_ratio: float = 1.5
    """Warn where the slowest rank computed this many times as long as the median rank."""
    replica_check_interval: int = 0
    """Steps between checks that ranks which hold copies of the same weights hold the same bits; 0 switches it off."""
    replica_mismatch: Literal["stop", "warn"] = "stop"
    """What follows when they do not: stop ends the run (exit code 80) without saving, warn goes on."""
    note_bad_nodes: bool = True
    """Write hosts whose rank no longer answers in a hang, or alone holds the others up in a step, or has the odd copy
    of weights, to bad_nodes.jsonl in the run directory: a Slurm job that is requeued or submitted again does without
    them."""
