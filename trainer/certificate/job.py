"""Exchange jobs and results with the certificate's processes through files."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trireme.files import write_whole


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold one run of one layout."""

    title: str
    """For progress and messages."""
    folder: str
    """Directory of its result and traces."""
    config_file: str
    """The run's configuration, as `load_config_file` reads it."""
    vocab_size: int
    tokenizer_eod_id: int | None
    num_processes: int
    num_steps: int
    noise_seed: int | None = None
    """Seed of random rounding errors and of the order of micro batches; None runs as training does."""
    varies_lengths: bool = False
    """Mask the end of each sequence, so that sequences and ranks have different numbers of target tokens."""
    num_traced_steps: int = 0
    """Number of first steps of which every tensor is written."""

    @property
    def result_file(self) -> Path:
        """File that exists when the job is done."""
        return Path(self.folder, "result.json")


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Hold the scalars of a run, the same on every rank."""

    losses: list[float]
    grad_norms: list[float]
    skipped_steps: list[int]
    seconds: float
    """Wall time of the steps."""
    device: str


def write_jobs(path: Path, jobs: Sequence[Job]) -> None:
    """Write the list that `trainer.certificate.worker` reads."""
    path.write_text(json.dumps([asdict(job) for job in jobs]))


def read_jobs(path: Path) -> list[Job]:
    """Read the list that `write_jobs` wrote."""
    return [Job(**entry) for entry in json.loads(path.read_text())]


def write_result(job: Job, result: JobResult) -> None:
    """Write the result atomically, since its existence marks the job as done."""
    write_whole(job.result_file, json.dumps(asdict(result)))


def read_result(job: Job) -> JobResult | None:
    """Read the result; None if the job is not done."""
    try:
        return JobResult(**json.loads(job.result_file.read_text()))
    except FileNotFoundError:
        return None
