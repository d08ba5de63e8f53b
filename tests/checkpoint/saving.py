"""A saver around fragments whose every value is known."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.checkpoint.fragments import MODEL, fragments_of, layout_in, open_world
from tests.data.shards import write_counting_shard
from trainer.checkpoint.manager import CheckpointManager, ResumeSource
from trainer.checkpoint.trainer_state import TrainProgress
from trainer.config.derived import derive_config
from trainer.config.parallel import ParallelConfig
from trainer.config.run import CheckpointConfig, DatasetConfig
from trainer.config.schema import TrainConfig
from trainer.data.loader import build_loader
from trainer.engine.base import OptimizerFragment

ONE = ParallelConfig()


@dataclass(kw_only=True)
class FragmentEngine:
    """The part of an engine that saving asks: its fragments and what is restored with them."""

    fragments: list[OptimizerFragment]
    num_updates: int = 0
    loss_scale: None = None
    failure: Exception | None = None
    """Raised when the fragments are asked for."""

    def optimizer_fragments(self) -> list[OptimizerFragment]:
        if self.failure is not None:
            raise self.failure
        return self.fragments

    def restore(self, *, num_updates: int, loss_scale: None = None) -> None:
        self.num_updates = num_updates


@dataclass(kw_only=True)
class Saving:
    """A saver, what it saves and what it told."""

    saver: CheckpointManager
    engine: FragmentEngine
    run: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    def save(self, step: int, *, validation_loss: float | None = None) -> None:
        self.saver.save(progress_of(step, validation_loss=validation_loss))

    def kinds(self) -> list[tuple[str, int]]:
        return [(event["kind"], event["step"]) for event in self.events]

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.run / "checkpoints").iterdir())


def progress_of(step: int, *, validation_loss: float | None = None) -> TrainProgress:
    return TrainProgress(
        step=step, consumed_samples=8 * step, consumed_tokens=256 * step, validation_loss=validation_loss
    )


@contextmanager
def open_saving(
    directory: Path,
    checkpoint: CheckpointConfig,
    *,
    run_name: str = "run",
    parallel: ParallelConfig = ONE,
    origin: ResumeSource | None = None,
    step: int = 0,
) -> Iterator[Saving]:
    """All ranks call this."""
    config = TrainConfig(model=MODEL, output_dir=str(directory), run_name=run_name, checkpoint=checkpoint)
    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, timeout_seconds=60))
    with open_world(parallel) as world:
        derived = derive_config(config, world_size=world.world_size, vocab_size=MODEL.vocab_size or 0)
        engine = FragmentEngine(fragments=fragments_of(parallel, world, fill=True))
        events: list[dict[str, Any]] = []
        shard = directory / f"shard_{world.rank}"
        if not shard.with_suffix(".bin").exists():
            write_counting_shard(shard, start=0, num_tokens=200)
        loader = build_loader(
            [DatasetConfig(paths=[str(shard)])],
            seed=1,
            seq_length=MODEL.seq_length,
            dp_rank=0,
            dp_size=1,
            micro_batch_size=1,
            global_batch_size=1,
            prefetch_steps=0,
        )
        saver = CheckpointManager(
            config,
            derived=derived,
            engine=engine,  # type: ignore[arg-type]
            loader=loader,
            layout=layout_in(parallel, world_size=world.world_size),
            origin=origin or ResumeSource(),
            progress=progress_of(step),
            record=lambda kind, **fields: events.append({"kind": kind, **fields}),
        )
        yield Saving(saver=saver, engine=engine, run=derived.run_directory, events=events)
        saver.finish()
        loader.close()
