"""The trainer's own look at shards, tokenizer and checkpoint, in a process that may import torch."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from launch.preflight.finding import Finding, judge
from trainer.config.schema import TrainConfig
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
            "inputs", [Violation(path="trainer.check_inputs", value="failed", rule=rule, fix=fix)], otherwise=""
        )
    found = [Violation(**violation) for violation in json.loads(done.stdout)["violations"]]
    num_shards = sum(len(dataset.paths) for dataset in (*config.data.train, *config.data.validation))
    depth = "with their checksums" if reads_all or config.data.verify in ("checksum", "full") else "by their sizes"
    return judge("inputs", found, otherwise=f"{format_number(num_shards, 'shard')} {depth}, tokenizer, checkpoint")
