"""Seconds from the command to the first finished optimizer step, on CPU: one process, and four (TP2 x PP2).

Beside `launch.local` as it is, in alternating rounds of one run: the same with every rank started cold
(TRIREME_FORK_RANKS=0), and a bare torchrun script of as many ranks that imports torch and transformers, joins gloo and
does nothing else. With `--before DIRECTORY` also `launch.local` of an older checkout. Prints one JSON line.

    python -m benchmarks.startup [--rounds 5] [--before DIRECTORY]

seconds: until rank 0 has said that step 1 is done (bare: until all ranks have met at a barrier). cpu_seconds: of all
processes, to the end of the command, which is that of step 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trireme.processes import set_omp_threads, torchrun_here
from trireme.shards.shard import ShardWriter

HERE = Path(__file__).resolve().parents[1]
LAYOUTS = {1: "single", 4: "tp2_pp2"}
BARE = """
import torch, transformers
from transformers import LlamaForCausalLM
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
if torch.distributed.get_rank() == 0:
    print("step 1/1", flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
FIRST_STEP = "step 1/1"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to start."""

    command: Sequence[str]
    directory: Path = HERE
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Started:
    """What one start took."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, default=None, help="a checkout whose launch.local is measured, too")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "startup", "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as folder:
        for num_processes in LAYOUTS:
            sides = build_sides(num_processes, directory=Path(folder), before=arguments.before)
            result[f"{num_processes}_processes"] = measure(sides, rounds=arguments.rounds)
    print(json.dumps(result))


def build_sides(num_processes: int, *, directory: Path, before: Path | None) -> dict[str, Side]:
    """Name the ways to start that many processes."""
    shard, script = directory / "shard", directory / "bare.py"
    if not script.exists():
        script.write_text(BARE)
        with ShardWriter(shard, dtype=np.uint16) as writer:
            writer.add_document(np.arange(20_000) % 8_000)
            writer.commit()
    overrides = [
        "model=quickstart",
        "model.vocab_size=8192",
        f"parallel={LAYOUTS[num_processes]}",
        "training.train_iters=1",
        "training.micro_batch_size=1",
        "training.global_batch_size=8",
        "lr_schedule.warmup_steps=0",
        "checkpoint=off",
        "logging=quiet",
        f"data.train=[{{paths:['{shard}']}}]",
        f"output_dir='{directory}/runs'",
        "resume=never",
    ]
    launch = [sys.executable, "-m", "launch.local", *overrides]
    threads = set_omp_threads(os.environ, num_processes=num_processes)
    sides = {
        "forked": Side(command=launch),
        "cold": Side(command=launch, environment={"TRIREME_FORK_RANKS": "0"}),
        "bare": Side(command=[*torchrun_here(num_processes), str(script)], environment=threads),
    }
    if before is not None:
        sides["before"] = Side(command=launch, directory=before)
    return sides


def measure(sides: Mapping[str, Side], *, rounds: int) -> dict[str, Any]:
    """Start each side once a round; medians, and ratios of the same round."""
    found: dict[str, list[Started]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(start(side))
    result: dict[str, Any] = {}
    for name, started in found.items():
        result[name] = {
            "seconds": round(statistics.median(one.seconds for one in started), 2),
            "cpu_seconds": round(statistics.median(one.cpu_seconds for one in started), 2),
        }
    for other in found.keys() - {"forked"}:
        pairs = list(zip(found["forked"], found[other], strict=True))
        result[f"forked_over_{other}"] = {
            "seconds": round(statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs), 3),
            "cpu_seconds": round(statistics.median(ours.cpu_seconds / theirs.cpu_seconds for ours, theirs in pairs), 3),
        }
    return result


def start(side: Side) -> Started:
    """Run a command to its end.

    Raises:
        RuntimeError: it fails, or never says that it has taken its first step.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        list(side.command),
        cwd=side.directory,
        env={**os.environ, **side.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    seconds = None
    for line in process.stdout:
        if FIRST_STEP in line and seconds is None:
            seconds = time.monotonic() - began
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or seconds is None:
        raise RuntimeError(f"{side.command} ended with {process.returncode}:\n{errors}")
    return Started(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    main()
