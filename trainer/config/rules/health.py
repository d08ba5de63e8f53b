"""Rules about watching over a run."""

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
            message="compares copies of weights, and engine.zero_stage=3 leaves none",
            fix="use 0, or engine.zero_stage 0, 1 or 2",
        )


@reads("health.replica_check_interval", "engine.name", "engine.overlap_param_gather")
def _copies_are_whole_after_a_step(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if config.health.replica_check_interval and engine.name == "megatron" and engine.overlap_param_gather:
        yield Violation(
            path="health.replica_check_interval",
            value=config.health.replica_check_interval,
            message="compares copies of weights after a step, and engine.overlap_param_gather=true gathers them during the"
            " next one",
            fix="use 0, or engine.overlap_param_gather=false",
        )


RULES = (_there_are_copies, _copies_are_whole_after_a_step)
