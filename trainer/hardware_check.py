"""Check the hardware of a job: measure every device and link before a training run depends on them.

    python -m trainer.torchrun --nnodes N --nproc-per-node G ... -m trainer.hardware_check [--output FILE]

Each rank multiplies matrices and copies memory on its own; ranks of one host all-reduce among themselves; then each
sends to the rank with the same number on the next host and receives from the previous one. On CUDA, uncorrected ECC
errors are read from the driver. Clocks are read after a barrier, library versions are compared, and with --directory
all ranks must see a file that rank 0 writes there. Rank 0 prints one JSON document, or writes it to FILE;
launch.preflight evaluates it.

Source of the method: MegaScale (arXiv 2402.15627), section 4.3: self-checks of hosts, loopback and neighbours.
"""

import argparse
import dataclasses
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from trainer.checkpoint.trainer_state import library_versions
from trireme.bad_nodes import this_host
from trireme.command import run_command, write_output
from trireme.processes import local_rank
from trireme.strict_json import to_json

ROUNDS = 5
"""Measurements of each kind; the median counts, and of clock differences the smallest."""
_SIGHT_SECONDS = 10.0
"""Longest time in which a file may appear on another host."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """Hold the measurements of one rank."""

    rank: int
    host: str
    local_rank: int
    device: str
    gemm_tflops: float
    """10^12 floating-point operations per second of square products: bf16 on CUDA, fp32 on CPU."""
    memory_gb_per_second: float
    """10^9 bytes read and written per second by a copy."""
    host_allreduce_gb_per_second: float | None
    """Bus bandwidth, 2 (n - 1) / n of the bytes by the time, among the ranks of this host; None for a lone rank."""
    neighbour_gb_per_second: float | None
    """10^9 bytes per second to the next host while the previous one sends; None on one host."""
    clock_seconds: float
    """Difference of this host's clock to rank 0's; accurate to about a round trip."""
    uncorrected_ecc_errors: int | None
    """Since the driver was loaded; None if the device does not report any."""
    versions: dict[str, str]
    """Of the libraries that compute, and of Python."""
    sees_directory: bool | None
    """Whether this rank sees a file that rank 0 wrote and can write its own; None without a directory."""


def main() -> int:
    """Run the command."""
    return run_command(run)


def run() -> int:
    """Parse the arguments, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="directory that all hosts must share and be able to write")
    parser.add_argument("--output", type=Path, help="file that rank 0 writes (default: stdout)")
    parser.add_argument("--size", type=int, help="rows of the matrices (default: 8192 on CUDA, 1024 on CPU)")
    parser.add_argument("--megabytes", type=int, help="size of copies and messages (default: 1024 on CUDA, 32 on CPU)")
    arguments = parser.parse_args()
    device = _start()
    report = measure(
        device,
        size=arguments.size or (8192 if device.type == "cuda" else 1024),
        num_bytes=(arguments.megabytes or (1024 if device.type == "cuda" else 32)) << 20,
        directory=arguments.directory,
    )
    reports: list[RankReport | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(reports, report)
    if distributed.get_rank() == 0:
        text = to_json({"ranks": [dataclasses.asdict(one) for one in reports if one is not None]})
        if arguments.output:
            arguments.output.write_text(text)
        else:
            write_output(text + "\n")
    distributed.destroy_process_group()
    return 0


def measure(device: torch.device, *, size: int, num_bytes: int, directory: Path | None) -> RankReport:
    """Measure this rank's device and links; all ranks call this.

    Args:
        size: rows and columns of the matrices.
        num_bytes: of a copy and of a message.
        directory: that all ranks must see.
    """
    hosts: list[str] = [""] * distributed.get_world_size()
    distributed.all_gather_object(hosts, this_host())
    return RankReport(
        rank=distributed.get_rank(),
        host=hosts[distributed.get_rank()],
        local_rank=local_rank(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        gemm_tflops=_gemm_tflops(device, size=size),
        memory_gb_per_second=_memory_rate(device, num_bytes=num_bytes),
        host_allreduce_gb_per_second=_host_rate(device, hosts=hosts, num_bytes=num_bytes),
        neighbour_gb_per_second=_neighbour_rate(device, hosts=hosts, num_bytes=num_bytes),
        clock_seconds=_clock_difference(),
        uncorrected_ecc_errors=_ecc_errors(device),
        versions=_versions(),
        sees_directory=_sees(directory) if directory else None,
    )


def _start() -> torch.device:
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
        return device
    distributed.init_process_group("gloo")
    return torch.device("cpu")


def _gemm_tflops(device: torch.device, *, size: int) -> float:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty(size, size, device=device, dtype=dtype)
    seconds = _median_seconds(lambda: torch.mm(left, right, out=product), device=device)
    return 2 * size**3 / seconds / 1e12


def _memory_rate(device: torch.device, *, num_bytes: int) -> float:
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _median_seconds(lambda: target.copy_(source), device=device) / 1e9


def _host_rate(device: torch.device, *, hosts: list[str], num_bytes: int) -> float | None:
    """All-reduce among the ranks of each host; every rank must take part in creating every group."""
    own, ranks = None, []
    for host in dict.fromkeys(hosts):
        members = [rank for rank, name in enumerate(hosts) if name == host]
        group = distributed.new_group(members)
        if distributed.get_rank() in members:
            own, ranks = group, members
    if len(ranks) == 1:
        return None
    data = torch.ones(num_bytes // 4, device=device)
    seconds = _median_seconds(lambda: distributed.all_reduce(data, group=own), device=device)
    return 2 * (len(ranks) - 1) / len(ranks) * num_bytes / seconds / 1e9


def _neighbour_rate(device: torch.device, *, hosts: list[str], num_bytes: int) -> float | None:
    """Send to the same local rank of the next host, receive from the former: every host's links, both ways, at once."""
    names = list(dict.fromkeys(hosts))
    members = {name: [rank for rank, host in enumerate(hosts) if host == name] for name in names}
    rank = distributed.get_rank()
    place, local = names.index(hosts[rank]), members[hosts[rank]].index(rank)
    if len(names) == 1 or len({len(ranks) for ranks in members.values()}) > 1:
        return None
    following = members[names[(place + 1) % len(names)]][local]
    former = members[names[place - 1]][local]
    sent, received = torch.ones(num_bytes // 4, device=device), torch.empty(num_bytes // 4, device=device)

    def exchange() -> None:
        operations = [
            distributed.P2POp(distributed.isend, sent, following),
            distributed.P2POp(distributed.irecv, received, former),
        ]
        for request in distributed.batch_isend_irecv(operations):
            request.wait()

    return num_bytes / _median_seconds(exchange, device=device) / 1e9


def _median_seconds(call: Callable[[], object], *, device: torch.device) -> float:
    def run() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    run()
    return statistics.median(run() for _ in range(ROUNDS))


def _clock_difference() -> float:
    """Return the smallest of several differences: each is read after a barrier that some rank leaves late."""
    differences = []
    for _ in range(ROUNDS):
        distributed.barrier()
        clocks: list[float] = [0.0] * distributed.get_world_size()
        distributed.all_gather_object(clocks, time.time())
        differences.append(clocks[distributed.get_rank()] - clocks[0])
    return min(differences, key=abs)


def _ecc_errors(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    query = ["nvidia-smi", "--query-gpu=ecc.errors.uncorrected.volatile.total", "--format=csv,noheader,nounits"]
    try:
        properties = torch.cuda.get_device_properties(device)
        answer = subprocess.run([*query, f"--id=GPU-{properties.uuid}"], capture_output=True, text=True, timeout=30)
        return int(answer.stdout.strip())
    except (OSError, ValueError, subprocess.TimeoutExpired):  # no ECC, or no tool that reports it
        return None


def _versions() -> dict[str, str]:
    versions = library_versions("transformer-engine")
    if torch.cuda.is_available():
        versions["cuda"] = str(torch.version.cuda)
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return versions


def _sees(directory: Path) -> bool:
    """Return whether rank 0's file appears here in time, and this rank can write its own."""
    token = [secrets.token_hex(8) if distributed.get_rank() == 0 else ""]
    distributed.broadcast_object_list(token)
    shared = directory / f".hardware-check-{token[0]}"
    own = directory / f".hardware-check-{token[0]}-{distributed.get_rank()}"
    try:
        if distributed.get_rank() == 0:
            shared.write_text(token[0])
        own.write_text(token[0])
        is_good = _holds(shared, token[0])
    except OSError:
        is_good = False
    distributed.barrier()
    own.unlink(missing_ok=True)
    if distributed.get_rank() == 0:
        shared.unlink(missing_ok=True)
    return is_good


def _holds(path: Path, text: str) -> bool:
    """Wait for a file with this text: a file that another process writes is there before its text is."""
    deadline = time.monotonic() + _SIGHT_SECONDS
    while not (path.is_file() and path.read_text() == text):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
        os.listdir(path.parent)  # makes network file systems query their server again
    return True


if __name__ == "__main__":
    sys.exit(main())
