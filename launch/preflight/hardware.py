"""Run the hardware check on this host or on a job's nodes, and compare the measurements of all ranks."""

import json
import os
import secrets
import shlex
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.cli import check_nodes, processes_per_node
from launch.preflight.finding import Finding, judge, skipped
from launch.slurm.cpus import cpus_per_task
from launch.slurm.render import (
    container_prefix,
    environment_of,
    placement_options,
    python_on_nodes,
    rendezvous_port,
    srun_options,
)
from trainer.config.schema import TrainConfig
from trainer.config.validate import needed_packages
from trireme.bad_nodes import note_bad_nodes
from trireme.errors import Violation
from trireme.files import nearest_existing_parent
from trireme.processes import set_omp_threads, torchrun_here
from trireme.progress import format_number
from trireme.slurm import merge_options

TOLERANCE = 0.1
"""Share below the median of its kind at which a device or link is slow. Source: NVIDIA's and MegaScale's acceptance
tests repeat within a few percent, so 10% is not noise."""
CPU_TOLERANCE = 0.6
"""The same for CPU processes, which share a host's cores with others."""
CLOCK_TOLERANCE_SECONDS = 1.0
RATES = {
    "gemm_tflops": "matrix products run at {:.3g} TFLOP/s",
    "memory_gb_per_second": "memory copies run at {:.3g} GB/s",
    "host_allreduce_gb_per_second": "all-reduces within the host run at {:.3g} GB/s",
    "neighbour_gb_per_second": "sends to the next host run at {:.3g} GB/s",
}
"""Rates in a rank's report, with their descriptions."""
TIMEOUT_SECONDS = 600


def check_hardware_here(*, num_processes: int, run_directory: Path, needed: Sequence[str] = ()) -> Finding:
    """Measure the devices of this host with as many processes as the run would start.

    Args:
        needed: as in `judge_ranks`.
    """
    return run_hardware_check(
        torchrun_here(num_processes),
        directory=nearest_existing_parent(run_directory),
        environment=set_omp_threads(os.environ, num_processes=num_processes),
        needed=needed,
    )


def run_hardware_check(
    start: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    run_directory: Path | None = None,
    needed: Sequence[str] = (),
) -> Finding:
    """Run `trainer.hardware_check` with a command that starts processes, and evaluate their reports.

    Args:
        start: the command before `-m trainer.hardware_check`.
        directory: on a file system that all hosts share.
        run_directory: where to record hosts with bad accelerators, so that the run excludes them; None records none.
        needed: as in `judge_ranks`.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix=".preflight-") as place:
        output = Path(place, "hardware.json")
        command = [*start, "-m", "trainer.hardware_check", "--directory", place, "--output", str(output)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            return _failed(f"timed out after {TIMEOUT_SECONDS} s", command)
        except OSError as error:
            return skipped("hardware", f"cannot run {command[0]}: {error.strerror}")
        if done.returncode or not output.is_file():
            said = done.stderr.strip().splitlines() or ["no output"]
            # srun's own last line is the exit code.
            own = [line for line in said if "Exited with exit code" not in line and "Terminated" not in line]
            last = (own or said)[-1]
            return _failed(f"failed with exit code {done.returncode}: {last}", command)
        ranks = json.loads(output.read_text())["ranks"]
    bad = bad_hosts([rank for rank in ranks if rank["device"] != "cpu"])
    if bad and run_directory is not None:
        run_directory.mkdir(parents=True, exist_ok=True)
        note_bad_nodes(run_directory, bad, reason="hardware check")
    rates = [f"{name}: {statistics.median(values):.3g}" for name, values in _rates(ranks).items() if values]
    alike = f"{format_number(len(ranks), 'process')}, no outliers"
    return judge("hardware", judge_ranks(ranks, needed=needed), otherwise=f"{alike}; medians: {', '.join(rates)}")


def judge_ranks(ranks: Sequence[Mapping[str, Any]], *, needed: Sequence[str] = ()) -> list[Violation]:
    """Report every rank that is slow, damaged or different from the others, and missing packages.

    Args:
        ranks: the `trainer.hardware_check.RankReport` of each rank, as a mapping.
        needed: distributions that this run needs in addition to those that every run needs.
    """
    return [*_slow(ranks), *_damaged(ranks), *_unlike(ranks), *_lacking(ranks, needed)]


def bad_hosts(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the hosts with slow or damaged devices, for a scheduler to exclude."""
    named = {violation.path.partition(":")[0] for violation in [*_slow(ranks), *_damaged(ranks)]}
    return sorted(named)


def _slow(ranks: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    for device in sorted({rank["device"] for rank in ranks}):
        alike = [rank for rank in ranks if rank["device"] == device]
        tolerance = CPU_TOLERANCE if device == "cpu" else TOLERANCE
        for name, sentence in RATES.items():
            known = [rank for rank in alike if rank[name] is not None]
            median = statistics.median(rank[name] for rank in known) if known else 0.0
            for rank in known:
                if rank[name] < (1 - tolerance) * median:
                    rule = f"{sentence.format(rank[name])}; the median of all {device} is {median:.3g}"
                    fix = f"Exclude host {rank['host']}, or find the cause (clocks, power, temperature, cables)."
                    yield _violation_of(rank, rule, fix)


def _damaged(ranks: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    for rank in ranks:
        if count := rank["uncorrected_ecc_errors"]:
            fix = f"Exclude host {rank['host']}, and reset or replace the device."
            yield _violation_of(rank, f"the {rank['device']} has {count} uncorrected ECC errors", fix)


def _unlike(ranks: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    for rank in ranks:
        if rank["sees_directory"] is False:
            rule = "cannot read files that other processes write to output_dir, or cannot write there"
            yield _violation_of(rank, rule, "Set output_dir to a directory on a file system that all hosts mount.")
        if abs(seconds := rank["clock_seconds"]) > CLOCK_TOLERANCE_SECONDS:
            fix = "Synchronize the clocks of all hosts (chrony, ntpd)."
            yield _violation_of(rank, "the clock differs from that of rank 0", fix, value=f"{seconds:+.1f}s")
    for library in sorted({name for rank in ranks for name in rank["versions"]}):
        hosts = defaultdict(set)
        for rank in ranks:
            hosts[rank["versions"].get(library, "missing")].add(rank["host"])
        if len(hosts) > 1:
            shown = "; ".join(f"{version} on {', '.join(sorted(names))}" for version, names in sorted(hosts.items()))
            rule = "versions differ between hosts"
            yield Violation(path=library, value=shown, message=rule, fix="Install the same environment on all hosts.")


def _violation_of(rank: Mapping[str, Any], message: str, fix: str, *, value: str = "") -> Violation:
    """Describe an error of one rank; its path begins with the host."""
    return Violation(path=f"{rank['host']}:{rank['local_rank']}", value=value, message=message, fix=fix)


def _lacking(ranks: Sequence[Mapping[str, Any]], needed: Sequence[str]) -> Iterator[Violation]:
    for name in needed:
        hosts = sorted({rank["host"] for rank in ranks if name not in rank["versions"]})
        if hosts:
            rule = f"required by the run, but not installed on {', '.join(hosts)}"
            yield Violation(path=name, value="", message=rule, fix=f"Run pip install {name} there.")


def _rates(ranks: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {name: [rank[name] for rank in ranks if rank[name] is not None] for name in RATES}


def _failed(what: str, command: Sequence[str]) -> Finding:
    by_hand = " ".join(command[: command.index("trainer.hardware_check") + 1])
    fix = f"Run it by hand to see its full output: {by_hand}"
    return judge("hardware", [Violation(path="trainer.hardware_check", value="", message=what, fix=fix)], otherwise="")


TIME_LIMIT = "10"
"""Minutes that the job may run."""


def check_hardware_on_nodes(config: TrainConfig, *, run_directory: Path) -> Finding:
    """Measure as many nodes as the run uses, with the run's own placement options."""
    if list(check_nodes(config)):
        return skipped("hardware", "cluster.num_nodes does not divide the number of processes")
    return run_hardware_check(
        build_srun(config),
        directory=nearest_existing_parent(run_directory),
        environment=os.environ,
        run_directory=run_directory,
        needed=needed_packages(config),
    )


def build_srun(config: TrainConfig) -> list[str]:
    """Return the srun command that starts the processes, without the module that they run."""
    slurm, cpus = config.cluster.slurm, cpus_per_task(config)
    options = {"job-name": "trireme-preflight", "time": TIME_LIMIT, **placement_options(config, cpus=cpus)}
    flags = {"quiet": None, **({"exclusive": None} if slurm.exclusive else {}), **slurm.options}
    # srun's long options are sbatch's.
    asked = [
        f"--{name}" + ("" if value is None else f"={value}")
        for name, value in merge_options(options, further=flags).items()
    ]
    asked += [word for option in srun_options(config, cpus=cpus) for word in shlex.split(option)]
    before = [f"module load {shlex.quote(module)} || exit" for module in slurm.modules]
    before += slurm.setup
    before += [f"export {name}={value}" for name, value in environment_of(config).items()]
    before.append('export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"')
    torchrun = (
        f"{container_prefix(config)}{shlex.quote(python_on_nodes(config))} -m trainer.torchrun"
        f' --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {processes_per_node(config)} --rdzv-backend c10d'
        ' --rdzv-endpoint "$first:$port"'
        f" --rdzv-id hardware-{secrets.token_hex(4)}"
    )
    first = 'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    # A process that already listens there would be mistaken for the first node's launcher, and all would wait for it.
    port = [
        f"port={rendezvous_port(config)}",
        'is_held() { (: <"/dev/tcp/$1/$port") 2>/dev/null; }',
        'if [ "$SLURM_NODEID" = 0 ] && { is_held 127.0.0.1 || is_held "$first"; }; then',
        '  echo "port $port of $first is in use by another process; set cluster.slurm.rendezvous_port" >&2',
        "  exit 1",
        "fi",
    ]
    script = "\n".join([*before, first, *port, f'exec {torchrun} "$@"'])
    return ["srun", *asked, "bash", "-c", script, "hardware-check"]
