"""One real hardware check of two processes, and how reports of slow, damaged and different devices are judged."""

import copy
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from launch.preflight import hardware
from launch.preflight.finding import Verdict
from trainer import hardware_check
from trireme.bad_nodes import read_bad_nodes

Ranks = list[dict[str, Any]]
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "trainer.torchrun", "--nproc-per-node", "2"]
TORCHRUN += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    place = tmp_path_factory.mktemp("hardware")
    output = place / "hardware.json"
    command = [*TORCHRUN, "-m", "trainer.hardware_check", "--size", "128", "--megabytes", "1"]
    command += ["--directory", str(place), "--output", str(output)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [path.name for path in place.iterdir()] == ["hardware.json"], "the test leaves files behind"
    return json.loads(output.read_text())["ranks"]


@pytest.fixture
def ranks(measured: Ranks) -> Ranks:
    """Eight alike ranks of two hosts with GPUs, made from the measured ones."""
    made = []
    for number in range(8):
        rank = copy.deepcopy(measured[number % 2])
        rank |= {"rank": number, "host": f"n{number // 4}", "local_rank": number % 4, "device": "H100"}
        # A busy host's clocks and files may have been slow.
        rank |= {"clock_seconds": 0.0, "sees_directory": True, **dict.fromkeys(hardware.RATES, 100.0)}
        made.append(rank)
    return made


def test_every_rank_measures(measured: Ranks) -> None:
    assert [rank["rank"] for rank in measured] == [0, 1]
    for rank in measured:
        assert rank["gemm_tflops"] > 0
        assert rank["memory_gb_per_second"] > 0
        assert rank["host_allreduce_gb_per_second"] > 0
        assert rank["neighbour_gb_per_second"] is None  # one host
        assert abs(rank["clock_seconds"]) < hardware.CLOCK_TOLERANCE_SECONDS
        assert rank["sees_directory"] is True
        assert rank["versions"]["torch"]


def test_alike_ranks_are_good(ranks: Ranks) -> None:
    assert hardware.judge_ranks(ranks) == []
    assert hardware.bad_hosts(ranks) == []


@pytest.mark.parametrize("rate", hardware.RATES)
def test_a_slow_rank_is_reported(ranks: Ranks, rate: str) -> None:
    ranks[5][rate] = 85.0
    (violation,) = hardware.judge_ranks(ranks)
    assert str(violation).startswith("n1:1: ")
    assert "85" in str(violation) and "the median of all H100 is 100" in str(violation)
    assert hardware.bad_hosts(ranks) == ["n1"]


def test_another_kind_of_device_is_judged_by_its_own(ranks: Ranks) -> None:
    for rank in ranks[4:]:
        rank |= {"device": "A100"} | dict.fromkeys(hardware.RATES, 30.0)
    assert hardware.judge_ranks(ranks) == []


def test_damage_and_differences_are_named(ranks: Ranks) -> None:
    ranks[2]["uncorrected_ecc_errors"] = 3
    ranks[6]["sees_directory"] = False
    ranks[7]["clock_seconds"] = -40.0
    ranks[4]["versions"] = {**ranks[4]["versions"], "torch": "1.0"}
    found = [str(violation) for violation in hardware.judge_ranks(ranks)]
    assert [line.split(": ")[0] for line in found] == ["n0:2", "n1:2", "n1:3", "torch"]
    assert "3 uncorrected ECC errors" in found[0]
    assert "all hosts mount" in found[1]
    assert "-40.0s" in found[2]
    assert "1.0 on n1" in found[3]
    assert hardware.bad_hosts(ranks) == ["n0"]


def test_packages_that_the_run_needs_are_looked_for_on_every_host(ranks: Ranks) -> None:
    assert hardware.judge_ranks(ranks, needed=["torch"]) == []
    (violation,) = hardware.judge_ranks(ranks, needed=["transformer-engine"])
    assert str(violation) == (
        "transformer-engine: required by the run, but not installed on n0, n1."
        " Run pip install transformer-engine there."
    )


def test_a_failed_hardware_check_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    start = [sys.executable, "-c", "raise SystemExit('no room')"]
    finding = hardware.run_hardware_check(start, directory=tmp_path, environment=os.environ)
    assert finding.verdict is Verdict.ERROR
    assert "failed with exit code 1: no room" in str(finding.violations[0])
    absent = hardware.run_hardware_check([str(tmp_path / "srun")], directory=tmp_path, environment=os.environ)
    assert absent.verdict is Verdict.SKIPPED
    assert list(tmp_path.iterdir()) == []


def test_hosts_with_bad_accelerators_are_noted_for_the_run(ranks: Ranks, tmp_path: Path) -> None:
    ranks[5]["gemm_tflops"] = 10.0
    # Stands for torchrun: writes what the processes would have reported where --output says.
    writer = f"import sys; open(sys.argv[-1], 'w').write({json.dumps({'ranks': ranks})!r})"
    start = [sys.executable, "-c", writer]
    finding = hardware.run_hardware_check(
        start, directory=tmp_path, environment=os.environ, run_directory=tmp_path / "run"
    )
    assert finding.verdict is Verdict.ERROR
    assert read_bad_nodes(tmp_path / "run") == ["n1"]


def test_a_shared_file_may_be_there_before_its_text(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch()
    writer = threading.Timer(0.2, path.write_text, ["abc"])
    writer.start()
    assert hardware_check._holds(path, "abc")
    writer.join()
