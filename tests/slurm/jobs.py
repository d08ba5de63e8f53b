"""Training jobs on the test cluster, submitted by the real command."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cluster import SlurmCluster, wait_until
from tests.train.commands import REPOSITORY, SMALL
from trainer.metrics.jsonl import read_records
from trireme.config.override_line import quote_text

NUM_STEPS = 120
"""Of a run of two nodes: long enough for what happens to it on the way."""
NUM_STEPS_ALONE = 400
"""Of one node, whose steps wait for nobody."""
# Of a job that takes some 15 seconds on two idle cores.
DEADLINE = 300.0


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Where runs of one kind of training live, and how they are submitted."""

    output: Path
    shard: Path

    def overrides(self, name: str, *further: str, num_nodes: int = 2) -> list[str]:
        """The command line of a run; each node has one GPU, as far as Slurm knows."""
        return [
            *SMALL,
            f"training.train_iters={NUM_STEPS if num_nodes > 1 else NUM_STEPS_ALONE}",
            f"data.train=[{{paths:[{quote_text(str(self.shard))}]}}]",
            f"output_dir={quote_text(str(self.output))}",
            f"run_name={name}",
            f"cluster.num_nodes={num_nodes}",
            "cluster.gpus_per_node=1",
            "cluster.slurm.time_limit='50:00'",
            "cluster.slurm.environment={OMP_NUM_THREADS: 1}",
            *further,
        ]

    def submit(self, cluster: SlurmCluster, name: str, *further: str, num_nodes: int = 2) -> str:
        """Submit a run; the number of its job, of the first where there are several."""
        done = launch(cluster, *self.overrides(name, *further, num_nodes=num_nodes))
        assert done.returncode == 0, done.stderr
        match = re.match(r"submitted +(\d+)", done.stdout)
        assert match, done.stdout
        return match.group(1)

    def directory(self, name: str) -> Path:
        """A run's directory."""
        return self.output / name

    def printed(self, name: str) -> str:
        """All that the jobs of a run have written."""
        return "".join(path.read_text() for path in sorted(self.directory(name).glob("slurm/*/*.out")))


def launch(cluster: SlurmCluster, *arguments: str, cwd: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
    """Run `trireme slurm` where the cluster's commands find it."""
    return subprocess.run(
        [sys.executable, "-m", "launch.slurm", *arguments],
        cwd=cwd,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def wait_for_steps(directory: Path, count: int) -> None:
    """Wait until so many steps are in the run's metrics."""
    metrics = directory / "metrics.jsonl"
    wait_until(
        lambda: metrics.exists() and len(read_records(metrics)) >= count, what=f"{count} steps", seconds=DEADLINE
    )


def warn(cluster: SlurmCluster, job: str) -> None:
    """What --signal=B:USR1@300 does at its time."""
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
