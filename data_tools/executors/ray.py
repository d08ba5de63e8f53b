"""The executor ray: shares of reading and tokenizing run as tasks of an existing Ray cluster; the rest runs here.

A share is the same command that a Slurm job runs, so all nodes need this code, its environment, the inputs and
output_dir under the same paths.
"""

import logging
import subprocess
import sys
from typing import Any, NamedTuple

from data_tools.errors import BadRecordError, PreparationError
from data_tools.executors.run_share import SHARED_STAGES, save_task, stage_command
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation, Share
from data_tools.stages.run import run_stage
from data_tools.work.progress import Stages
from trireme.errors import EXIT_BAD_INPUT, ConfigError, Violation
from trireme.progress import format_number
from trireme.project import PROJECT_ROOT

MAX_RETRIES = 1
"""Retries of a share whose node was lost."""


class _Ended(NamedTuple):
    """Exit code and error output of a share's command."""

    code: int
    stderr: str


def run_on_ray(preparation: Preparation) -> None:
    """Run all stages.

    Raises:
        ConfigError: Ray is not installed, or no cluster is running.
        PreparationError: a share failed; the next run keeps the results of the others.
    """
    ray = _connect(preparation.config.executor.ray_address)
    try:
        for stage in Stage:
            if stage in SHARED_STAGES:
                _run_shares(ray, stage, preparation)
            else:
                run_stage(stage, preparation, Share())
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray  # noqa: PLC0415 - an optional dependency
    except ImportError:
        violation = Violation(
            path="data_prep.executor.kind",
            value="ray",
            message="Ray is not installed",
            fix="Run pip install -e '.[ray]'.",
        )
        raise ConfigError([violation]) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        violation = Violation(
            path="data_prep.executor.ray_address",
            value=address,
            message=f"cannot connect to a Ray cluster: {error}",
            fix="Start one with `ray start --head`, or set the address of a running one. If the cluster asks for a"
            " token, set RAY_AUTH_MODE=token.",
        )
        raise ConfigError([violation]) from error
    return ray


def _run_shares(ray: Any, stage: Stage, preparation: Preparation) -> None:
    config = preparation.config.executor
    task_file = save_task(preparation)
    count = config.num_shares

    def run(share: str) -> tuple[int, str]:
        command = [sys.executable, *stage_command(stage, task_file=task_file, share=share)]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    remote = ray.remote(num_cpus=config.ray_cpus_per_share, max_retries=MAX_RETRIES)(run)
    shares = {remote.remote(f"{number}/{count}"): number for number in range(count)}
    failures: list[tuple[int, _Ended]] = []
    stages = Stages(titles=tuple(Stage), mode=preparation.config.progress)
    with stages.begin(stage, total=count, unit="shares") as progress:
        waiting = list(shares)
        while waiting:
            finished, waiting = ray.wait(waiting)
            for reference in finished:
                try:
                    ended = _Ended(*ray.get(reference))
                except ray.exceptions.RayError as error:
                    ended = _Ended(-1, f"the Ray task was lost: {error}")
                if ended.code:
                    failures.append((shares[reference], ended))
            progress.update(count - len(waiting))
            if any(ended.code == EXIT_BAD_INPUT for _, ended in failures):
                break
    if failures:
        number, ended = failures[0]
        if ended.code == EXIT_BAD_INPUT:
            raise BadRecordError(ended.stderr.strip())
        more = f", and so did {format_number(len(failures) - 1, 'other share')}" if len(failures) > 1 else ""
        raise PreparationError(
            f"Share {number} of stage {stage} failed with exit code {ended.code}{more}:\n{ended.stderr.strip()}"
        )
