"""Limit how long a phase of the run may take; the limit of a step depends on how long steps take."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trainer.config.run import HealthConfig

Phase = Literal["start-up", "step", "validation", "checkpoint", "end"]

NUM_STEPS_REMEMBERED = 50


@dataclass(frozen=True, kw_only=True)
class _Moment:
    phase: Phase
    step: int
    began: float


class PhaseLimits:
    """Track the phase of this rank and its time limit. The main thread enters phases, the watchdog's thread reads."""

    def __init__(self, config: HealthConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._durations: deque[float] = deque(maxlen=NUM_STEPS_REMEMBERED)
        self._num_steps = 0
        self._now = _Moment(phase="start-up", step=0, began=clock())  # replaced whole: read by another thread

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self._now.phase

    @property
    def step(self) -> int:
        """The current step, or the last one taken."""
        return self._now.step

    def enter(self, phase: Phase, *, step: int) -> None:
        """Enter a phase; the one before has ended."""
        before, now = self._now, self._clock()
        if before.phase == "step":
            self._num_steps += 1
            if self._num_steps > 1:  # the first compiles, allocates and connects
                self._durations.append(now - before.began)
        self._now = _Moment(phase=phase, step=step, began=now)

    def limit_seconds(self) -> float:
        """Return the time limit of the current phase."""
        config, phase = self._config, self._now.phase
        if phase == "checkpoint":
            return config.checkpoint_seconds
        if phase == "validation":
            return config.validation_seconds
        durations = list(self._durations)
        if phase != "step" or not durations:
            return config.startup_seconds
        return max(config.hang_min_seconds, config.hang_step_multiple * statistics.median(durations))

    def stall(self) -> str | None:
        """Describe the phase if it has exceeded its limit; None otherwise."""
        now = self._now
        seconds, limit = self._clock() - now.began, self.limit_seconds()
        if seconds <= limit:
            return None
        what = f"step {now.step}" if now.phase == "step" else f"{now.phase} at step {now.step}"
        return f"{what} has taken {seconds:.0f} s, and the limit is {limit:.0f} s"
