"""Check settings of health monitoring."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation


@reads("health.replica_check_interval", "engine.name", "engine.zero_stage")
def _there_are_copies(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.health.replica_check_interval and config.engine.name == "deepspeed" and config.engine.zero_stage == 3:
        yield Violation(
            path="health.replica_check_interval",
            value=config.health.replica_check_interval,
            message="must be 0 with engine.zero_stage=3, which keeps no replicas of weights to compare",
            fix="Use 0, or set engine.zero_stage to 0, 1 or 2.",
        )


@reads("health.replica_check_interval", "engine.name", "engine.overlap_param_gather")
def _copies_are_whole_after_a_step(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if config.health.replica_check_interval and engine.name == "megatron" and engine.overlap_param_gather:
        yield Violation(
            path="health.replica_check_interval",
            value=config.health.replica_check_interval,
            message="must be 0 with engine.overlap_param_gather=true: replicas are compared after a step, and weights"
            " are gathered during the next one",
            fix="Use 0, or engine.overlap_param_gather=false.",
        )


RULES = (_there_are_copies, _copies_are_whole_after_a_step)
