"""Check settings of recovery: there must be a checkpoint to roll back to."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation
from trireme.progress import format_number


def _acting(config: TrainConfig) -> list[str]:
    """Return the fields that make the run act on spikes."""
    return [name for name in ("loss_spike", "grad_norm_spike") if getattr(config.recovery, name) == "act"]


@reads("recovery.loss_spike", "recovery.grad_norm_spike", "checkpoint.save_interval")
def _acting_needs_checkpoints(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.checkpoint.save_interval == 0:
        for name in _acting(config):
            yield Violation(
                path=f"recovery.{name}",
                value="act",
                message="requires checkpoint.save_interval of at least 1: it rolls back to a checkpoint",
                fix="Use warn, or set checkpoint.save_interval to 500 or another positive number.",
            )


@reads(
    "recovery.loss_spike",
    "recovery.grad_norm_spike",
    "recovery.skip_steps_before",
    "recovery.spike_patience",
    "checkpoint.save_interval",
    "checkpoint.keep_last",
)
def _checkpoints_reach_back(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    recovery, checkpoint = config.recovery, config.checkpoint
    if not _acting(config) or checkpoint.save_interval == 0 or checkpoint.keep_last == 0:
        return
    needed = recovery.skip_steps_before + recovery.spike_patience
    kept = (checkpoint.keep_last - 1) * checkpoint.save_interval
    if kept < needed:
        enough = 1 + -(-needed // checkpoint.save_interval)
        yield Violation(
            path="checkpoint.keep_last",
            value=checkpoint.keep_last,
            message=f"must be at least {enough}: acting on a spike rolls back {format_number(needed, 'step')}"
            f" (recovery.skip_steps_before={recovery.skip_steps_before} + recovery.spike_patience="
            f"{recovery.spike_patience}), and checkpoints every checkpoint.save_interval={checkpoint.save_interval}"
            f" steps reach back {kept}",
            fix=f"Use {enough} or more, or 0 to keep all checkpoints.",
        )


@reads("recovery.replay")
def _replay_exists(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    replay = config.recovery.replay
    if replay is not None and not Path(replay).exists():
        yield Violation(
            path="recovery.replay",
            value=replay,
            message="no such file or directory",
            fix="Set it to the recovery.jsonl of a run, to the directory of a run that has one, or to null.",
        )


RULES = (_acting_needs_checkpoints, _checkpoints_reach_back, _replay_exists)
