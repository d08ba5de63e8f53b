"""Training throughput of layouts over two processes of one thread, against one process of two threads, on CPU.

All layouts are started once and wait; in each round every one takes its steps in turn, so that a noisy machine is noisy
for all. A step is the whole global batch: forward, backward, reduction, clipping, AdamW.

For pipelines the bubble is measured beside its theory, (p - 1) / (m * v) of the time that computing takes for p stages,
m micro batches and v chunks per stage: the time of m micro batches, less m times the slope between m and 2 m.

Also measures what the view of torch costs that lets Megatron-Core run without CUDA: the lookups in it that a step
makes, times what one takes longer than in torch. Prints one JSON line per layout, and one for the view.

    python -m benchmarks.layouts [--rounds 7] [--steps 2] [--layouts tp2,pp2,...]
"""

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.output import take_stdout
from benchmarks.shapes import LLAMA_32M
from trainer.config.derived import derive_config
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig, MegatronEngineConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.run import TrainingConfig
from trainer.config.schema import TrainConfig
from trainer.data.micro_batch import MicroBatch
from trainer.parallel import cpu_shim

SHAPE = dataclasses.replace(LLAMA_32M, seq_length=512)
SEQUENCES = 16
GOAL = 0.85
BASE = "one process"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the model is trained."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    engine: EngineConfig = field(default_factory=lambda: DeepSpeedEngineConfig(zero_stage=1))
    num_processes: int = 2
    num_threads: int = 1


LAYOUTS = {
    BASE: Layout(engine=DeepSpeedEngineConfig(zero_stage=0), num_processes=1, num_threads=2),
    "tp2": Layout(parallel=ParallelConfig(tensor_model_parallel_size=2)),
    "tp2 sp": Layout(parallel=ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)),
    "pp2": Layout(parallel=ParallelConfig(pipeline_model_parallel_size=2)),
    "pp2 vp2": Layout(parallel=ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)),
    "cp2": Layout(parallel=ParallelConfig(context_parallel_size=2)),
    "dp2": Layout(),
    "pp2 megatron": Layout(parallel=ParallelConfig(pipeline_model_parallel_size=2), engine=MegatronEngineConfig()),
    "dp2 megatron": Layout(engine=MegatronEngineConfig()),
}


class Runner:
    """The processes of a layout, which take steps when they are told to."""

    def __init__(self, layout: Layout, *, directory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours: list[Connection] = []
        self._processes = []
        for rank in range(layout.num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(layout, rank, directory, theirs), daemon=True)
            process.start()
            theirs.close()
            self._ours.append(ours)
            self._processes.append(process)

    def ask(self, *request: Any) -> Any:
        """Have all ranks do something; returns what the first one found."""
        for connection in self._ours:
            connection.send(request)
        answers = [connection.recv() for connection in self._ours]
        return answers[0]

    def close(self) -> None:
        """End the processes."""
        for connection in self._ours:
            connection.send(None)
        for process in self._processes:
            process.join(30)


def main() -> None:
    """Measure all layouts and print their lines."""
    arguments = _arguments()
    figures = take_stdout()
    chosen = {BASE: LAYOUTS[BASE], **{name: LAYOUTS[name] for name in arguments.layouts}}
    with tempfile.TemporaryDirectory() as directory:
        runners = {}
        for name, layout in chosen.items():
            (place := Path(directory) / name.replace(" ", "_")).mkdir()
            runners[name] = Runner(layout, directory=place)
            runners[name].ask("steps", 1)
            print(f"started {name}", file=sys.stderr)
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(arguments.rounds):
            order = list(runners) if number % 2 == 0 else list(runners)[::-1]
            for name in order:
                seconds[name].append(runners[name].ask("steps", arguments.steps))
            print(f"round {number + 1}/{arguments.rounds}", file=sys.stderr)
        for name, runner in runners.items():
            print(json.dumps(_describe(name, runner, seconds, rounds=arguments.rounds)), file=figures, flush=True)
        print(json.dumps({"benchmark": "cpu_shim", **runners[BASE].ask("shim")}), file=figures, flush=True)
        for runner in runners.values():
            runner.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds")
    parser.add_argument("--steps", type=int, default=2, help="steps of each layout in a round")
    parser.add_argument(
        "--layouts",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[name for name in LAYOUTS if name != BASE],
        help=f"some of: {', '.join(LAYOUTS)}",
    )
    return parser.parse_args()


def _describe(name: str, runner: Runner, seconds: dict[str, list[float]], *, rounds: int) -> dict[str, Any]:
    ratios = [base / mine for base, mine in zip(seconds[BASE], seconds[name], strict=True)]
    line: dict[str, Any] = {
        "benchmark": "layouts",
        "layout": name,
        "processes": LAYOUTS[name].num_processes,
        "threads_per_process": LAYOUTS[name].num_threads,
        "tokens_per_second": round(SEQUENCES * SHAPE.seq_length / statistics.median(seconds[name]), 1),
        "median_ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    if name in ("tp2", "pp2"):
        line["goal"] = GOAL
    parallel = LAYOUTS[name].parallel
    num_stages = parallel.pipeline_model_parallel_size
    if num_stages > 1:
        times = [(runner.ask("schedule", SEQUENCES), runner.ask("schedule", 2 * SEQUENCES)) for _ in range(rounds)]
        slope = statistics.median((twice - once) / SEQUENCES for once, twice in times)
        once = statistics.median(once for once, _ in times)
        chunks = parallel.virtual_pipeline_model_parallel_size or 1
        line["bubble"] = round(once / (SEQUENCES * slope) - 1, 3)
        line["bubble_in_theory"] = round((num_stages - 1) / (SEQUENCES * chunks), 3)
        line["num_microbatches"] = SEQUENCES
    return line


def _serve(layout: Layout, rank: int, directory: Path, connection: Connection) -> None:
    """One rank: build the engine, then do what is asked."""
    logging.disable(logging.ERROR)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(layout.num_processes))
    torch.set_num_threads(layout.num_threads)
    store = distributed.FileStore(str(directory / "store"), layout.num_processes)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=layout.num_processes)
    cpu_shim.install()
    # Megatron-Core may only be imported behind the line before.
    from trainer.build import build_engine  # noqa: PLC0415
    from trainer.engine.forward import forward_backward  # noqa: PLC0415
    from trainer.parallel.world import start_world  # noqa: PLC0415

    world = start_world(layout.parallel, timeout_seconds=600, seed=1)
    config = TrainConfig(
        model=SHAPE,
        parallel=layout.parallel,
        engine=layout.engine,
        training=TrainingConfig(global_batch_size=SEQUENCES, micro_batch_size=1),
    )
    derived = derive_config(config, world_size=world.world_size, vocab_size=SHAPE.vocab_size or 0)
    chunks: list[Any] = []
    engine = build_engine(config, derived=derived, world=world, watch=chunks.extend)
    batches = _micro_batches(SEQUENCES)[world.dp_rank :: world.dp_size]

    def take_steps(count: int) -> float:
        distributed.barrier()
        start = time.perf_counter()
        for _ in range(count):
            engine.train_step(batches, learning_rate=1e-5)
        return (time.perf_counter() - start) / count

    def run_schedule(count: int) -> float:
        distributed.barrier()
        start = time.perf_counter()
        forward_backward(chunks, _micro_batches(count), groups=world.groups, device=world.device, forward_only=False)
        distributed.barrier()
        return time.perf_counter() - start

    answers: dict[str, Callable[..., Any]] = {
        "steps": take_steps,
        "schedule": run_schedule,
        "shim": lambda: _measure_view(lambda: take_steps(1)),
    }
    while (request := connection.recv()) is not None:
        connection.send(answers[request[0]](*request[1:]))
    engine.close()


def _micro_batches(count: int) -> list[MicroBatch]:
    tokens = torch.randint(0, SHAPE.vocab_size or 0, (count, SHAPE.seq_length + 1), generator=_generator())
    mask = torch.ones(1, SHAPE.seq_length)
    positions = torch.arange(SHAPE.seq_length).expand(1, -1)
    return [
        MicroBatch(tokens=row[None, :-1], labels=row[None, 1:], loss_mask=mask, position_ids=positions, sample_ids=())
        for row in tokens
    ]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _measure_view(step: Callable[[], float]) -> dict[str, Any]:
    """What the view of torch costs in a step."""
    seconds = statistics.median(step() for _ in range(5))
    views = {id(module.__dict__["torch"]): module.__dict__["torch"] for module in _megatron_modules()}
    (view,) = views.values()
    counts = {"lookups": 0, "factory_calls": 0}
    counted = _CountingView(view, counts)
    modules = _megatron_modules()
    for module in modules:
        module.__dict__["torch"] = counted
    step()
    for module in modules:
        module.__dict__["torch"] = view
    lookup = _time_call(lambda: view.float32) - _time_call(lambda: torch.float32)
    factory = _time_call(lambda: view.empty(0, device="cuda")) - _time_call(lambda: torch.empty(0))
    cost = counts["lookups"] * max(lookup, 0.0) + counts["factory_calls"] * max(factory, 0.0)
    return {
        **counts,
        "nanoseconds_per_lookup": round(1e9 * lookup, 1),
        "nanoseconds_per_factory_call": round(1e9 * factory, 1),
        "share_of_step": round(cost / seconds, 6),
        "goal": 0.02,
    }


class _CountingView(types.ModuleType):
    """Counts what is looked up in a view."""

    def __init__(self, view: types.ModuleType, counts: dict[str, int]) -> None:
        super().__init__("torch")
        self.__dict__.update(_view=view, _counts=counts)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_view"], name)
        self.__dict__["_counts"]["lookups"] += 1
        # What is not torch's own object is a function of the shim.
        self.__dict__["_counts"]["factory_calls"] += callable(found) and found is not getattr(torch, name, None)
        return found


def _megatron_modules() -> list[types.ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("megatron.core") and isinstance(module.__dict__.get("torch"), types.ModuleType)
        if module.__dict__["torch"] is not torch
    ]


def _time_call(call: Callable[[], Any], *, count: int = 20000) -> float:
    """Seconds of a call, the best of a few."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - start) / count)
    return min(times)


if __name__ == "__main__":
    main()
