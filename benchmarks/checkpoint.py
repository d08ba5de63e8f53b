"""Saving a checkpoint in the background against saving it in the step: how long training stands still.

Two processes with a 32 M model, data-parallel under ZeRO-1, so that each writes half of the state: about 190 MB. Both
ways save the same state to the same directory in alternating rounds of one run. After a save in the background training
steps are taken until it is committed, as in a run. Prints one JSON line.

    python -m benchmarks.checkpoint [--rounds 7] [--directory DIR]

stall: how long `save` keeps the step. total: until the checkpoint is committed.
"""

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout
from trainer.parallel import cpu_shim

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it
cpu_shim.install()  # before Megatron-Core is imported below

import torch  # noqa: E402
from torch import distributed  # noqa: E402

from benchmarks.shapes import LLAMA_32M  # noqa: E402
from trainer.build import wire_model, wrap_in_engine  # noqa: E402
from trainer.checkpoint.directory import list_checkpoints  # noqa: E402
from trainer.checkpoint.manager import CheckpointManager, ResumeSource  # noqa: E402
from trainer.checkpoint.trainer_state import TrainProgress, layout_of  # noqa: E402
from trainer.config.derived import DerivedConfig, derive_config  # noqa: E402
from trainer.config.optim import OptimizerConfig, PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.config.run import CheckpointConfig, DatasetConfig  # noqa: E402
from trainer.config.schema import TrainConfig  # noqa: E402
from trainer.data.loader import BatchLoader, build_loader  # noqa: E402
from trainer.data.micro_batch import MicroBatch  # noqa: E402
from trainer.engine.base import Engine  # noqa: E402
from trainer.parallel.world import World, start_world, stop_world  # noqa: E402
from trireme.shards.shard import ShardWriter  # noqa: E402

NUM_PROCESSES = 2
SHAPE = dataclasses.replace(LLAMA_32M, seq_length=128)
WAYS = {"async": CheckpointConfig(keep_last=1), "sync": CheckpointConfig(keep_last=1, async_save=False)}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One save, as rank 0 saw it."""

    stall_seconds: float
    total_seconds: float
    step_seconds: list[float]
    """Of the training steps that were taken while it was written."""


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=None, help="where to save; a temporary one by default")
    arguments = parser.parse_args()
    with socket.socket() as free, tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_rank, args=(rank, port, Path(directory), arguments.rounds, sender))
            for rank in range(NUM_PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("a process failed")
        print(json.dumps(receiver.recv()), file=FIGURES, flush=True)


def _rank(rank: int, port: int, directory: Path, rounds: int, sender: Connection) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=1)
    result = _measure(world, directory, rounds=rounds)
    if rank == 0:
        sender.send(result)
    stop_world()


def _measure(world: World, directory: Path, *, rounds: int) -> dict[str, Any]:
    config = TrainConfig(model=SHAPE, output_dir=str(directory), run_name="run")
    derived = derive_config(config, world_size=NUM_PROCESSES, vocab_size=SHAPE.vocab_size or 0)
    engine = _build_engine(derived, world)
    loader = _build_loader(directory / f"shard_{world.rank}")
    told: list[dict[str, Any]] = []
    savers = {
        name: CheckpointManager(
            replace(config, checkpoint=checkpoint),
            derived=derived,
            engine=engine,
            loader=loader,
            layout=layout_of(ParallelConfig(), world_size=NUM_PROCESSES, engine="deepspeed", device_type="cpu"),
            origin=ResumeSource(),
            progress=TrainProgress(),
            record=lambda kind, *, step, **fields: told.append(fields),
        )
        for name, checkpoint in WAYS.items()
    }
    alone = [_take_step(engine, world) for _ in range(3)][1:]
    saves: dict[str, list[Saved]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for position, name in enumerate(WAYS):
            steps = _save(savers[name], engine, world, step=1 + 2 * number + position)
            if number and world.is_main_rank:  # the first round allocates
                times = {key: told[-1][key] for key in ("stall_seconds", "total_seconds")}
                saves[name].append(Saved(**times, step_seconds=steps))
        alone.append(_take_step(engine, world))
    if not world.is_main_rank:
        return {}
    (path,) = list_checkpoints(derived.run_directory)
    num_bytes = sum(file.stat().st_size for file in path.iterdir())
    return _summarize(saves, alone=alone, num_bytes=num_bytes, num_parameters=derived.num_parameters_padded)


def _save(saver: CheckpointManager, engine: Engine, world: World, *, step: int) -> list[float]:
    """Save, and train until all ranks are done; the seconds of those steps."""
    distributed.barrier()
    saver.save(TrainProgress(step=step))
    steps: list[float] = []
    while not _is_over(saver):
        steps.append(_take_step(engine, world))
    if not saver.finish():
        raise RuntimeError("the save failed")
    return steps


def _is_over(saver: CheckpointManager) -> bool:
    flag = torch.tensor(int(saver.is_saving))
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return not flag.item()


def _summarize(
    saves: Mapping[str, list[Saved]], *, alone: list[float], num_bytes: int, num_parameters: int
) -> dict[str, Any]:
    ratios = [a.stall_seconds / s.stall_seconds for a, s in zip(saves["async"], saves["sync"], strict=True)]
    beside = [seconds for saved in saves["async"] for seconds in saved.step_seconds]
    return {
        "benchmark": "checkpoint",
        "processes": NUM_PROCESSES,
        "parameters": num_parameters,
        "megabytes": round(num_bytes / 1e6, 1),
        "bytes_per_parameter": round(num_bytes / num_parameters, 3),
        "rounds": len(ratios),
        "async_stall_seconds": _median([saved.stall_seconds for saved in saves["async"]]),
        "async_total_seconds": _median([saved.total_seconds for saved in saves["async"]]),
        "sync_seconds": _median([saved.stall_seconds for saved in saves["sync"]]),
        "stall_ratio": _median(ratios),
        "stall_ratios": [round(ratio, 3) for ratio in ratios],
        "step_seconds": _median(alone),
        "step_seconds_while_writing": _median(beside) if beside else None,
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def _build_engine(derived: DerivedConfig, world: World) -> Engine:
    precision = PrecisionConfig()
    chunks = wire_model(
        SHAPE,
        parallel=ParallelConfig(),
        precision=precision,
        padded_vocab_size=derived.padded_vocab_size,
        vocab_size=derived.padded_vocab_size,
        world=world,
        seed=1,
    )
    return wrap_in_engine(
        chunks,
        config=TrainConfig(model=SHAPE).engine,
        optimizer=OptimizerConfig(),
        precision=precision,
        groups=world.groups,
        device=world.device,
    )


def _build_loader(prefix: Path) -> BatchLoader:
    """A saver asks it for the mixture; the steps here make their own tokens."""
    with ShardWriter(prefix, dtype="uint16") as writer:
        writer.add_document(torch.arange(1000).numpy())
        writer.commit()
    return build_loader(
        [DatasetConfig(paths=[str(prefix)])],
        seed=1,
        seq_length=SHAPE.seq_length,
        dp_rank=0,
        dp_size=1,
        micro_batch_size=1,
        global_batch_size=1,
        prefetch_steps=0,
    )


def _take_step(engine: Engine, world: World) -> float:
    tokens = torch.randint(0, SHAPE.vocab_size or 0, (1, SHAPE.seq_length + 1))
    batch = MicroBatch(
        tokens=tokens[:, :-1],
        labels=tokens[:, 1:],
        loss_mask=torch.ones(1, SHAPE.seq_length),
        position_ids=torch.arange(SHAPE.seq_length)[None],
        sample_ids=(world.dp_rank,),
    )
    start = time.monotonic()
    engine.train_step([batch], learning_rate=1e-4)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
