"""What the training loop tells the watchdog, and what is checked between steps."""

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
    """The health of one run.

    Args:
        compute_time: None where stragglers are not looked for.
        replicas: None where copies are not compared.
    """

    def __init__(
        self,
        config: HealthConfig,
        *,
        clock: PhaseLimits,
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


def build_health(
    config: HealthConfig,
    *,
    watchdog: Watchdog,
    chunks: Sequence[nn.Module],
    stage: int,
    groups: "ProcessGroupCollection",
    device: torch.device,
) -> Health:
    """Build what the configuration asks for; all ranks call this.

    Args:
        chunks: this rank's model chunks, whose weights are compared and whose passes are timed.
        stage: this rank's pipeline stage.
    """
    compute_time: ComputeTime | None = None
    if config.straggler_interval and len(watchdog.processes) > 1:
        if device.type == "cuda":
            compute_time = ForwardEventTime(chunks)
        else:
            compute_time = SampledComputeTime(lambda: watchdog.clock.phase == "step", clock=watchdog.awake_clock)
    replicas = None
    if config.replica_check_interval:
        replicas = ReplicaCheck(
            find_replicas(chunks, groups=groups),
            processes=watchdog.processes,
            device=device,
            mismatch=config.replica_mismatch,
            on_odd=lambda ranks: watchdog.note_bad_ranks(ranks, reason="its copy of weights is the odd one"),
        )
    return Health(
        config,
        clock=watchdog.clock,
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
