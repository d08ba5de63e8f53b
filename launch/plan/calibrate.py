"""Replace fitted rates by measured ones: `trireme plan calibrate=true`.

A child process runs trainer.hardware_check under torchrun on all devices: matrix products, copies, all-reduces. The
rates are saved as CALIBRATION_NAME in the output directory, and plans for the same device type use them. The slowest
rank's rates are used, because a step waits for it.
"""

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.plan.coefficients import Coefficients, names_of, prior_of
from launch.plan.hardware import Device, find_device
from trireme.errors import ConfigError, Violation
from trireme.processes import set_omp_threads, torchrun_here

CALIBRATION_NAME = "calibration.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold the rates measured on one host."""

    device: str
    """Device type, by the planner's name."""
    num_devices: int
    gemm_format: str
    """Number format of the measured products."""
    gemm_tflops: float
    memory_gb_per_second: float
    link_gb_per_second: float | None = None
    """Bus bandwidth of an all-reduce on this host; None on a host with one device."""
    network_gb_per_second: float | None = None
    """From each device to another host; None where there was one host."""


def measure(num_processes: int) -> Calibration:
    """Run trainer.hardware_check on this host and summarize its report.

    Args:
        num_processes: devices of this host.
    Raises:
        ConfigError: the measurement failed, or the device is not in the planner's table.
    """
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "hardware.json")
        command = [*torchrun_here(num_processes), "-m", "trainer.hardware_check", "--output", str(output)]
        environment = set_omp_threads(os.environ, num_processes=num_processes)
        finished = subprocess.run(command, env=environment, check=False)
        if finished.returncode or not output.is_file():
            rule = f"the measurement failed with exit code {finished.returncode}"
            fix = "Fix the error printed above, or plan without calibrate=true."
            raise ConfigError([Violation(path="calibrate", value="", message=rule, fix=fix)])
        return summarize(json.loads(output.read_text(encoding="utf-8")))


def summarize(report: Mapping[str, Any]) -> Calibration:
    """Return the slowest rates in a report of trainer.hardware_check.

    Raises:
        ConfigError: its device is not in the planner's table.
    """
    ranks = report["ranks"]
    device = find_device(ranks[0]["device"])
    if device is None:
        rule, fix = "the planner does not know this device type", "Add it to launch/plan/data/devices.yaml."
        raise ConfigError([Violation(path="device", value=ranks[0]["device"], message=rule, fix=fix)])
    return Calibration(
        device=device.name,
        num_devices=len(ranks),
        gemm_format="fp32" if device.name == "cpu" else "bf16",
        gemm_tflops=_least(ranks, "gemm_tflops") or 0.0,
        memory_gb_per_second=_least(ranks, "memory_gb_per_second") or 0.0,
        link_gb_per_second=_least(ranks, "host_allreduce_gb_per_second"),
        network_gb_per_second=_least(ranks, "neighbour_gb_per_second"),
    )


def _least(ranks: list[Mapping[str, Any]], name: str) -> float | None:
    values = [float(rank[name]) for rank in ranks if rank[name] is not None]
    return min(values) if values else None


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration that `load` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dataclasses.asdict(calibration), sort_keys=False), encoding="utf-8")


def load(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        ConfigError: the file contains none.
    """
    try:
        return Calibration(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, yaml.YAMLError) as error:
        rule = "not a calibration file" if isinstance(error, TypeError) else f"cannot read this file: {error}"
        fix = "Run trireme plan calibrate=true again."
        raise ConfigError([Violation(path="calibration", value=str(path), message=rule, fix=fix)]) from error


def apply(calibration: Calibration, coefficients: Coefficients, device: Device) -> Coefficients:
    """Return the coefficients with measured shares of the data sheet's rates in place of fitted ones.

    Formats that were not measured, such as fp8, keep their ratio to the measured one.
    """
    table = dict(coefficients.step_time)
    names = names_of(device=device.name, number_format=calibration.gemm_format, framework="trireme-megatron")
    rates = coefficients.rates(device=device.name, number_format=calibration.gemm_format, framework="trireme-megatron")
    measured = calibration.gemm_tflops / device.tflops[calibration.gemm_format]
    # The last factor belongs to the device type, in all formats: the others keep their ratio to the measured one.
    _scale(table, names["gemm"][-1], measured / float(rates.gemm))
    memory = calibration.memory_gb_per_second / device.memory_gb_per_second
    _scale(table, names["memory"][-1], memory / float(rates.memory))
    if calibration.link_gb_per_second:
        table["link"] = calibration.link_gb_per_second / device.link_gb_per_second
    if calibration.network_gb_per_second:
        table["network"] = calibration.network_gb_per_second / device.network_gb_per_second
    return dataclasses.replace(coefficients, step_time=table)


def _scale(table: dict[str, float], name: str, factor: float) -> None:
    table[name] = table.get(name, prior_of(name).centre) * factor
