"""Certificates that tests make, in processes that start warm."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.distributed.harness import run_distributed
from trainer.certificate import processes, worker
from trainer.certificate.job import Job, JobResult, read_result
from trainer.certify import run

# As conf/certify/standard.yaml has them, with fewer runs and steps.
QUICK = ["certify=standard", "certify.num_perturbed_runs=4", "certify.num_steps=3"]


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What the command left behind."""

    exit_code: int
    record: dict[str, Any]
    page: str
    folder: Path

    def layout(self, name: str) -> dict[str, Any]:
        """One row."""
        return next(layout for layout in self.record["layouts"] if layout["name"] == name)


Issue = Callable[..., Issued]


@dataclass(frozen=True, kw_only=True)
class WarmStarter(processes.Starter):
    """Runs jobs in forked processes; test_certify shows that torchrun starts them and what becomes of one that dies."""

    run_jobs: Callable[[Sequence[Job]], None] = worker.run_jobs
    """What every process does."""

    def run(self, jobs: Sequence[Job], *, on_done: Callable[[Job, JobResult | str], object]) -> dict[Job, str]:
        for size in sorted({job.num_processes for job in jobs}):
            of_this_size = [job for job in jobs if job.num_processes == size]
            run_distributed(self.run_jobs, size, of_this_size, timeout_seconds=self.timeout_seconds)
            for job in of_this_size:
                result = read_result(job)
                assert result is not None
                on_done(job, result)
        return {}


def run_warm(arguments: Sequence[str], *, run_jobs: Callable[[Sequence[Job]], None] = worker.run_jobs) -> int:
    """The command, its layouts in processes that start warm; the exit code."""
    with mock.patch.object(processes, "Starter", partial(WarmStarter, run_jobs=run_jobs)):
        return run(arguments)


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Issue:
    def issue(layouts: Sequence[str], *, run_command: Callable[[Sequence[str]], int] = run_warm) -> Issued:
        folder = tmp_path_factory.mktemp("certificate")
        written = ",".join(f'"{layout}"' for layout in layouts)
        exit_code = run_command([*QUICK, f"layouts=[{written}]", f"certify.output_dir={folder}"])
        return Issued(
            exit_code=exit_code,
            record=json.loads((folder / "certificate.json").read_text()),
            page=(folder / "certificate.html").read_text(),
            folder=folder,
        )

    return issue
