"""Put the parts of a run's health together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainer.config.health import HealthConfig
from trainer.health.compute_time import ComputeTime, ForwardEventTime, SampledComputeTime
from trainer.health.health import Health
from trainer.health.replicas import ReplicaCheck, find_replicas
from trainer.health.stragglers import Stragglers
from trainer.health.vigil import Vigil

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


def build_health(
    config: HealthConfig,
    *,
    vigil: Vigil,
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
    if config.straggler_interval and len(vigil.processes) > 1:
        if device.type == "cuda":
            compute_time = ForwardEventTime(chunks)
        else:
            compute_time = SampledComputeTime(lambda: vigil.clock.phase == "step", clock=vigil.awake_clock)
    replicas = None
    if config.replica_check_interval:
        replicas = ReplicaCheck(
            find_replicas(chunks, groups=groups),
            processes=vigil.processes,
            device=device,
            mismatch=config.replica_mismatch,
            on_odd=lambda ranks: vigil.note_bad_ranks(ranks, reason="its copy of weights is the odd one"),
        )
    return Health(
        config,
        clock=vigil.clock,
        compute_time=compute_time,
        replicas=replicas,
        stragglers=Stragglers(
            vigil.processes,
            stage=stage,
            interval=config.straggler_interval,
            ratio=config.straggler_ratio,
            device=device,
        ),
    )
