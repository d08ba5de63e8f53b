"""What goes wrong in a run, written by whoever starts it and read by its processes."""

from dataclasses import dataclass

VARIABLE = "TRIREME_TEST_FAULTS"
"""Environment variable with the path of {"directory": ..., "faults": [...]} as JSON."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong in one process."""

    kind: str
    """A function of `tests.chaos.faulty_train` named `fault_KIND`; or bad_samples: labels of the samples `first` to
    `end - 1` are wrong whenever they are read."""
    rank: int | None = 0
    """None for every rank."""
    step: int = 0
    """The step in which it happens; it happens when the step begins."""
    last_step: int | None = None
    """Of a fault that happens in several steps; None for one."""
    times: int = 1
    """How often it happens in each step over all restarts."""
    first: int = 0
    end: int = 0
    seconds: float = 0.0
    """How long a step is slow, or how long after its beginning the fault happens."""
    writes: int = 0
    """How many files this process has still made durable when a save kills it."""
    path: str = ""
    """Of a fault of a file or a disk: SHARD or RUN, which whoever starts the run puts in."""
