"""Checks that need only the configuration: inputs, layout, memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from launch.plan.coefficients import load_coefficients
from launch.plan.from_config import check_planner_input
from launch.plan.plan import make_plan
from launch.preflight.finding import Finding, judge, skipped, warn
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, Violation
from trireme.progress import format_number


def check_inputs(overrides: Sequence[str], *, config: TrainConfig, world_size: int, reads_all: bool) -> Finding:
    """Whether the trainer would find everything that it reads, and all of it whole.

    Args:
        overrides: of the command line.
        config: what they compose to.
        reads_all: compare checksums, too, whatever data.verify says; reads every byte.
    """
    verify = ["data.verify=checksum"] if reads_all and config.data.verify != "full" else []
    command = [sys.executable, "-W", "ignore", "-m", "trainer.check_inputs", "--json"]
    command += ["--world-size", str(world_size), *overrides, *verify]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode not in (EXIT_OK, EXIT_BAD_INPUT):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        rule = f"ended with {done.returncode}: {last}"
        fix = "run it by hand to see all that it says: python -m trainer.check_inputs OVERRIDES"
        return judge(
            "inputs", [Violation(path="trainer.check_inputs", value="failed", message=rule, fix=fix)], otherwise=""
        )
    found = [Violation(**violation) for violation in json.loads(done.stdout)["violations"]]
    num_shards = sum(len(dataset.paths) for dataset in (*config.data.train, *config.data.validation))
    depth = "with their checksums" if reads_all or config.data.verify in ("checksum", "full") else "by their sizes"
    return judge("inputs", found, otherwise=f"{format_number(num_shards, 'shard')} {depth}, tokenizer, checkpoint")


def check_layout(config: TrainConfig) -> Finding:
    """Whether tensor parallelism stays inside a host, whose links are ten times as fast as those between hosts."""
    per_host = config.cluster.gpus_per_node
    if per_host is None:
        return skipped("layout", "cluster.gpus_per_node is null: hosts are not known")
    tensor = config.parallel.tensor_model_parallel_size
    return judge("layout", _violations(config, per_host), otherwise=f"tensor parallelism of {tensor} inside {per_host}")


def _violations(config: TrainConfig, per_host: int) -> Iterator[Violation]:
    parallel = config.parallel
    sizes = {
        "parallel.tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "parallel.expert_tensor_parallel_size": parallel.expert_tensor_parallel_size or 1,
    }
    inside = ", ".join(map(str, divisors(per_host)))
    for path, size in sizes.items():
        if size > 1 and per_host % size:
            yield Violation(
                path=path,
                value=size,
                message=f"puts ranks of one group on different hosts of cluster.gpus_per_node={per_host}",
                fix=f"use {inside}, or accept=layout if the links between hosts are that fast",
            )


def check_memory(config: TrainConfig) -> Finding:
    """Compare the fullest stage's predicted memory with the device's; what is too large comes with what would fit.

    Args:
        config: one that breaks no rule.
    """
    if config.cluster.device is None:
        return skipped("memory", "cluster.device is null: the device's memory is not known")
    problems = list(check_planner_input(config))
    if problems:
        return warn("memory", problems, otherwise="")
    plan = make_plan(config, load_coefficients(), num_best=0)
    violations = []
    if (refusal := plan.configured_refusal) is not None:
        near = "; ".join(" ".join(candidate.overrides) for candidate in refusal.nearest)
        fix = f"the nearest layouts that fit: {near}" if near else "use more or larger devices; no layout fits"
        violations.append(Violation(path="layout", value=refusal.layout, message=refusal.reason, fix=fix))
    prediction = plan.prediction
    assert prediction is not None
    need, have = prediction.peak_bytes / 2**30, prediction.device_memory_bytes / 2**30
    return judge("memory", violations, otherwise=f"{need:.1f} GiB of {have:.0f} on the fullest device, predicted")
