"""Check the health of a run between steps, and tell the watchdog what the training loop does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainer.config.run import HealthConfig
from trainer.health.phase_limits import Phase, PhaseLimits
from trainer.health.replicas import ReplicaCheck, find_replicas
from trainer.health.stragglers import ComputeTime, ForwardEventTime, SampledComputeTime, Stragglers
from trainer.health.watchdog import Watchdog
from trireme.records import RankTimes

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


class Health:
    """Check the health of one run.

    Args:
        limits: of the watchdog; learns which phase the run is in.
        compute_time: None if stragglers are not detected.
        replicas: None if replicas are not compared.
    """

    def __init__(
        self,
        config: HealthConfig,
        *,
        limits: PhaseLimits,
        compute_time: ComputeTime | None,
        stragglers: Stragglers,
        replicas: ReplicaCheck | None,
    ) -> None:
        self._config, self._limits = config, limits
        self._compute_time, self._stragglers, self._replicas = compute_time, stragglers, replicas

    def enter(self, phase: Phase, step: int) -> None:
        """Enter a phase of the run; the step is the current one, or the last one taken."""
        self._limits.enter(phase, step=step)

    def after_step(self, step: int) -> RankTimes | None:
        """Run the checks that are due after a step; all ranks call this.

        Returns:
            The slowest rank, if the ranks were compared.
        Raises:
            RunStopped: on every rank, if replicas of weights differ.
        """
        interval = self._config.replica_check_interval
        if self._replicas is not None and interval and step % interval == 0:
            self._replicas.check(step=step)
        interval = self._config.straggler_interval
        if self._compute_time is None or step % interval:
            return None
        return self._stragglers.compare(self._compute_time.take(), step=step)

    def close(self) -> None:
        """Stop measuring."""
        if self._compute_time is not None:
            self._compute_time.close()


def build_health(
    config: HealthConfig,
    *,
    watchdog: Watchdog,
    chunks: Sequence[nn.Module],
    stage: int,
    groups: "ProcessGroupCollection",
    device: torch.device,
) -> Health:
    """Build the configured checks; all ranks call this.

    Args:
        chunks: this rank's model chunks, whose weights are compared and whose forward passes are timed.
        stage: this rank's pipeline stage.
    """
    compute_time: ComputeTime | None = None
    if config.straggler_interval and len(watchdog.processes) > 1:
        if device.type == "cuda":
            compute_time = ForwardEventTime(chunks)
        else:
            compute_time = SampledComputeTime(lambda: watchdog.limits.phase == "step", clock=watchdog.awake_clock)
    replicas = None
    if config.replica_check_interval:
        replicas = ReplicaCheck(
            find_replicas(chunks, groups=groups),
            processes=watchdog.processes,
            device=device,
            mismatch=config.replica_mismatch,
            on_odd=lambda ranks: watchdog.note_bad_ranks(ranks, reason="its replica of the weights has diverged"),
        )
    return Health(
        config,
        limits=watchdog.limits,
        compute_time=compute_time,
        replicas=replicas,
        stragglers=Stragglers(
            watchdog.processes,
            stage=stage,
            interval=config.straggler_interval,
            ratio=config.straggler_ratio,
            device=device,
        ),
    )
