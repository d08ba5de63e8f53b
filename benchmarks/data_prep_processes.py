"""Runs the programs that benchmarks/data_prep.py compares, some of them in the peers' own virtual environment."""

import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = Path(__file__).with_name("data_prep_peers.txt")
EXTRACTION_PROGRAM = Path(__file__).with_name("data_prep_trafilatura.py")
DATATROVE_PROGRAM = Path(__file__).with_name("data_prep_datatrove.py")
SAMPLE_SECONDS = 0.02
# One thread per process on both sides, and no look at the network.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A program that has ended well."""

    wall_seconds: float
    output: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON line that it wrote last."""
        return dict(json.loads(self.output.strip().splitlines()[-1]))


def find_peers_python(cache: Path) -> str:
    """The interpreter of the peers' virtual environment, which is made when it is not there."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    directory = cache / f"peers-{digest}"
    python = directory / "bin" / "python"
    finished = directory / "finished"
    if not finished.exists():
        print(f"installing the peers into {directory}", file=sys.stderr)
        venv.create(directory, clear=True, with_pip=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(REQUIREMENTS),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        finished.touch()
    return str(python)


def run(command: list[str]) -> Run:
    """Run a program to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - start
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {done.returncode}:\n{said}")
    return Run(wall_seconds=wall, output=done.stdout)


def run_module(module: str, *arguments: str) -> Run:
    """Run a module of this project in a process of its own."""
    return run([sys.executable, "-m", module, *arguments])


def measure_peaks(command: list[str]) -> tuple[float, float]:
    """Run a program, and look how much memory it and its child processes take.

    Returns:
        Peak resident bytes of the largest child process, and of the program itself.
    """
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    parent = psutil.Process(process.pid)
    largest = own = 0
    while process.poll() is None:
        try:
            own = max(own, _peak_bytes(process.pid))
            largest = max([largest, *(_peak_bytes(child.pid) for child in parent.children(recursive=True))])
        except psutil.NoSuchProcess:
            break
        time.sleep(SAMPLE_SECONDS)
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {process.returncode}:\n{said[-3000:]}")
    return largest, own


def _peak_bytes(pid: int) -> int:
    """VmHWM of a process: what it took at most so far; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
