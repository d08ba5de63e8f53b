"""What the training loop tells the watch, and what the watch does between steps."""

from trainer.config.health import HealthConfig
from trainer.health.compute_time import ComputeTime
from trainer.health.phase_clock import Phase, PhaseClock
from trainer.health.replicas import ReplicaCheck
from trainer.health.stragglers import Stragglers
from trireme.records import RankTimes


class Health:
    """The health of one run.

    Args:
        compute_time: None where stragglers are not looked for.
        replicas: None where copies are not compared.
    """

    def __init__(
        self,
        config: HealthConfig,
        *,
        clock: PhaseClock,
        compute_time: ComputeTime | None,
        stragglers: Stragglers,
        replicas: ReplicaCheck | None,
    ) -> None:
        self._config, self._clock = config, clock
        self._compute_time, self._stragglers, self._replicas = compute_time, stragglers, replicas

    def enter(self, phase: Phase, step: int) -> None:
        """The loop begins something; the step is the one that is taken, or was taken last."""
        self._clock.enter(phase, step=step)

    def after_step(self, step: int) -> RankTimes | None:
        """Make the checks that are due after a step; all ranks call this.

        Returns:
            The slowest rank, when the ranks were compared.
        Raises:
            RunStopped: on every rank, when copies of weights differ.
        """
        interval = self._config.replica_check_interval
        if self._replicas is not None and interval and step % interval == 0:
            self._replicas.check(step=step)
        interval = self._config.straggler_interval
        if self._compute_time is None or step % interval:
            return None
        return self._stragglers.compare(self._compute_time.take(), step=step)

    def close(self) -> None:
        """End the measuring."""
        if self._compute_time is not None:
            self._compute_time.close()
