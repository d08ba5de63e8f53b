"""One run over several layouts: which samples each of its steps was trained on, as its own parts tell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

from tests.checkpoint.fragments import open_world
from tests.data.shards import write_counting_shard
from trainer.build import build_engine
from trainer.build_data import build_training_loader
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.trainer_state import TrainProgress, layout_of
from trainer.config.derived import derive_config
from trainer.config.load import load_config
from trainer.resume import restore_run

GLOBAL_BATCH_SIZE = 8
SEQ_LENGTH = 16
NUM_WINDOWS = 40
"""Of each of the two data sets: more than the run draws, so that no window comes twice."""
FIRST_OF_SECOND = NUM_WINDOWS * SEQ_LENGTH + 1
"""Token that the second data set begins with."""
MODEL = (
    "model.num_layers=4",
    "model.hidden_size=32",
    "model.ffn_hidden_size=48",
    "model.num_attention_heads=4",
    "model.num_query_groups=4",
    f"model.seq_length={SEQ_LENGTH}",
    "model.vocab_size=1408",
    f"training.global_batch_size={GLOBAL_BATCH_SIZE}",
    "training.train_iters=100",
    "run_name=lineage",
)
TP2 = "parallel.tensor_model_parallel_size=2 parallel.sequence_parallel=true"
PP2 = "parallel.pipeline_model_parallel_size=2"
# Steps, weight of the second data set, and the layout. Each part loads what the one before has saved.
PARTS = (
    (2, 1, f"{TP2} {PP2} training.micro_batch_size=1"),
    (1, 1, "training.micro_batch_size=2 engine=megatron"),
    (2, 1, f"{PP2} parallel.virtual_pipeline_model_parallel_size=2 training.micro_batch_size=2"),
    (1, 3, f"{TP2} parallel.context_parallel_size=2 training.micro_batch_size=8 engine=megatron"),
    (1, 3, "parallel.tensor_model_parallel_size=4 parallel.sequence_parallel=true training.micro_batch_size=4"),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A sample that a step was trained on."""

    step: int
    sample: int
    """Its number in the global order."""
    first_token: int
    """Of its window: the shards count, so it tells which window of which data set this is."""


def write_shards(directory: Path) -> list[Path]:
    """Two shards that count, the second from where the first ends."""
    size = FIRST_OF_SECOND
    return [write_counting_shard(directory / name, start=n * size, num_tokens=size) for n, name in enumerate("ab")]


def train_over_layouts(directory: Path, shards: Sequence[Path]) -> list[Seen]:
    """Run the parts; all ranks of a world of four call this.

    Returns:
        What every data-parallel rank has read, in the order of the run.
    """
    return [seen for part in PARTS for seen in _train(directory, shards, *part)]


def _train(directory: Path, shards: Sequence[Path], num_steps: int, weight: float, layout: str) -> list[Seen]:
    data = f"[{{paths:['{shards[0]}'],weight:1}},{{paths:['{shards[1]}'],weight:{weight}}}]"
    overrides = [*MODEL, f"output_dir='{directory}'", f"data.train={data}", *layout.split()]
    world_size = distributed.get_world_size()
    config = load_config(overrides, world_size=world_size)
    with open_world(config.parallel) as world:
        derived = derive_config(config, world_size=world_size, vocab_size=config.model.vocab_size or 0)
        described = layout_of(config.parallel, world_size=world_size, engine=config.engine.name, device_type="cpu")
        engine = build_engine(config, derived=derived, world=world)
        state, origin = restore_run(config, derived=derived, engine=engine, layout=described)
        progress = state.progress if state is not None else TrainProgress()
        loader = build_training_loader(config, derived=derived, world=world, state=state)
        saver = CheckpointManager(
            config,
            derived=derived,
            engine=engine,
            loader=loader,
            layout=described,
            origin=origin,
            progress=progress,
            record=lambda kind, **fields: None,
        )
        read: list[Seen] = []
        for _ in range(num_steps):
            batches = loader.next_step()
            engine.train_step(batches, learning_rate=1e-3)
            progress.step += 1
            progress.consumed_samples = loader.consumed_samples
            for batch in batches:
                firsts = batch.tokens[:, 0].tolist()
                read += [
                    Seen(step=progress.step, sample=sample, first_token=first)
                    for sample, first in zip(batch.sample_ids, firsts, strict=True)
                ]
        assert saver.save_last(progress)
        loader.close()
        engine.close()
        is_copy = world.tp_rank or world.pp_rank or world.cp_rank
        everyone: list[list[Seen]] = [[] for _ in range(world_size)]
        distributed.all_gather_object(everyone, [] if is_copy else read)
    return sorted((seen for one in everyone for seen in one), key=lambda seen: (seen.step, seen.sample))
