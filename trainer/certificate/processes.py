"""Start the processes of the layouts, wait for their results, and report why one failed."""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainer.certificate.job import Job, JobResult, read_result, write_jobs
from trireme.processes import torchrun_here

_LOGGER = logging.getLogger(__name__)

WORKER_MODULE = "trainer.certificate.worker"
_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
"""Additional time to import the libraries, which is slow for many processes on few cores."""
_LAST_LINES = 30


@dataclass(frozen=True, kw_only=True)
class Starter:
    """Start processes through torchrun, as `launch.local` does, with one thread each."""

    folder: Path
    """Directory of job lists and logs."""
    timeout_seconds: float
    """Longest time without a result."""
    worker_module: str = WORKER_MODULE
    """The module that every process runs."""
    max_processes: int = 1
    """Maximum number of processes at a time; a layout that has more runs alone."""

    def run(self, jobs: Sequence[Job], *, on_done: Callable[[Job, JobResult | str], object]) -> dict[Job, str]:
        """Run jobs, all with the same number of processes in one start; after a failed job, the rest is started again.

        If max_processes allows it, several such starts share the jobs.

        Args:
            on_done: receives each job's result, or the reason of its failure, as soon as it is known.
        Returns:
            The reasons of the failures, by job.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        failures: dict[Job, str] = {}
        lock, stop = threading.Lock(), threading.Event()

        def report(job: Job, answer: JobResult | str) -> None:
            with lock:
                on_done(job, answer)

        for num_processes in sorted({job.num_processes for job in jobs}):
            of_this_size = [job for job in jobs if job.num_processes == num_processes]
            num_lanes = min(max(1, self.max_processes // num_processes), len(of_this_size))
            with ThreadPoolExecutor(num_lanes) as pool:
                lanes = [
                    pool.submit(
                        self._run_lane,
                        of_this_size[lane::num_lanes],
                        name=f"{num_processes}_processes_{lane}",
                        on_done=report,
                        stop=stop,
                    )
                    for lane in range(num_lanes)
                ]
                try:
                    for lane in lanes:
                        failures.update(lane.result())
                except BaseException:
                    stop.set()  # the others end their processes before the error propagates
                    raise
        return failures

    def _run_lane(
        self,
        jobs: Sequence[Job],
        *,
        name: str,
        on_done: Callable[[Job, JobResult | str], object],
        stop: threading.Event,
    ) -> dict[Job, str]:
        """Run jobs of one number of processes one after the other; return the reasons of failures."""
        failures: dict[Job, str] = {}
        remaining, attempt = list(jobs), 0
        while remaining and not stop.is_set():
            done, reason = self._run_once(remaining, name=f"{name}_{attempt}", on_done=on_done, stop=stop)
            remaining = remaining[done:]
            if remaining and not stop.is_set():
                failures[remaining[0]] = reason
                on_done(remaining[0], reason)
                remaining = remaining[1:]
            attempt += 1
        return failures

    def _run_once(
        self,
        jobs: Sequence[Job],
        *,
        name: str,
        on_done: Callable[[Job, JobResult | str], object],
        stop: threading.Event,
    ) -> tuple[int, str]:
        """Start processes for these jobs; return how many were done, and why not all."""
        jobs_file, log_file = self.folder / f"{name}.json", self.folder / f"{name}.log"
        write_jobs(jobs_file, jobs)
        with log_file.open("w") as log:
            process = subprocess.Popen(
                self._command(jobs_file, num_processes=jobs[0].num_processes),
                env=_environment(os.environ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                done, is_late = self._wait(process, jobs, on_done=on_done, stop=stop)
            finally:
                _end(process)
        if is_late:
            return done, f"timed out after {self.timeout_seconds:g} s without a result\n{_explain(log_file)}"
        return done, _explain(log_file)

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        jobs: Sequence[Job],
        *,
        on_done: Callable[[Job, JobResult | str], object],
        stop: threading.Event,
    ) -> tuple[int, bool]:
        done, deadline = 0, time.monotonic() + self.timeout_seconds + _START_SECONDS
        while done < len(jobs):
            is_running = process.poll() is None  # checked first: a process may write its result before it exits
            result = read_result(jobs[done])
            if result is not None:
                on_done(jobs[done], result)
                done, deadline = done + 1, time.monotonic() + self.timeout_seconds
            elif not is_running or stop.is_set():
                return done, False
            elif time.monotonic() > deadline:
                return done, True
            else:
                time.sleep(_POLL_SECONDS)
        process.wait(timeout=self.timeout_seconds)
        return done, False

    def _command(self, jobs_file: Path, *, num_processes: int) -> list[str]:
        return [*torchrun_here(num_processes), "-m", self.worker_module, str(jobs_file)]


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with one thread per process: the order of additions must not depend on free cores."""
    return {**environment, "OMP_NUM_THREADS": "1", "PET_SHUTDOWN_TIMEOUT": "5"}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _explain(log_file: Path) -> str:
    """Return the traceback of the rank that failed first, or the last lines of the log."""
    lines = log_file.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"\[rank (\d+)\] Traceback", line):
            prefix = f"[rank {match[1]}] "
            block = [text for text in lines[number:] if text.startswith(prefix)]
            return "\n".join(block[-_LAST_LINES:])
    return "\n".join(lines[-_LAST_LINES:]) or "the processes exited without any output"
