"""Load the planner's tables of devices and frameworks."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.plan.job import Framework, Machine

_NAMES = ("family", "attention")
"""Entries that are not numbers."""
FRAMEWORKS_FILE = Path(__file__).parent / "data" / "frameworks.yaml"


@functools.cache
def load_frameworks() -> dict[str, Framework]:
    """Return all frameworks by name; see data/frameworks.yaml."""
    return {
        name: Framework(**{key: value for key, value in entry.items() if key not in _NAMES})
        for name, entry in _load_table().items()
    }


def family_of(framework: str) -> str:
    """Return the family of frameworks with shared code; the framework's own name if it shares none or is unknown."""
    return str(_load_table().get(framework, {}).get("family", framework))


def attention_kernel_of(framework: str) -> str:
    """Return the fused attention kernel that a framework uses where the device supports it: flash, cudnn or triton."""
    return str(_load_table().get(framework, {}).get("attention", "flash"))


@functools.cache
def _load_table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(FRAMEWORKS_FILE.read_text(encoding="utf-8"))
    return table


DEVICES_FILE = Path(__file__).parent / "data" / "devices.yaml"
_LOW_PRECISION = {"fp8": 1, "fp4": 2}


@dataclass(frozen=True, kw_only=True)
class Device:
    """Describe a type of accelerator by its data sheet; see data/devices.yaml."""

    name: str
    names: str
    """A regular expression that matches the driver's name of the device."""
    tflops: dict[str, float]
    """By number format; dense."""
    memory_gib: float
    memory_gb_per_second: float
    link_gb_per_second: float
    link_domain: int
    """Number of devices that links connect."""
    network_gb_per_second: float
    price_per_hour: float
    spans_hosts: bool = False
    """Whether links connect devices of several hosts."""
    die: str = ""
    """Types with the same die reach the same shares of their peaks; empty means a die of its own."""
    efficiency: float = 1.0
    """Shares of peak of matrix products and attention, relative to those of `efficiency_of`."""
    efficiency_of: str | None = None
    """The type whose fitted coefficients are used instead of its own."""

    @property
    def fitted_as(self) -> str:
        """Return the type whose coefficients apply."""
        return self.efficiency_of or self.name

    def machine(self, *, number_format: str) -> Machine:
        """Return the figures that the formulas use, for matrix products in a number format."""
        sixteen = self.tflops["fp32"] if number_format == "fp32" else self.tflops["fp16"]
        return Machine(
            flops=self.tflops[number_format] * 1e12,
            attention_flops=sixteen * 1e12,
            memory_bytes=self.memory_gib * 2**30,
            memory_rate=self.memory_gb_per_second * 1e9,
            link_rate=self.link_gb_per_second * 1e9,
            link_domain=self.link_domain,
            network_rate=self.network_gb_per_second * 1e9,
            low_precision=_LOW_PRECISION.get(number_format, 0),
        )


@functools.cache
def load_devices() -> dict[str, Device]:
    """Return all devices by name."""
    table = yaml.safe_load(DEVICES_FILE.read_text(encoding="utf-8"))
    devices = {name: Device(**{"name": name, "die": name, **entry}) for name, entry in table.items()}
    return {name: dataclasses.replace(device, die=devices[device.fitted_as].die) for name, device in devices.items()}


def find_device(driver_name: str) -> Device | None:
    """Return the device with the given driver name; None if it is unknown."""
    devices = load_devices().values()
    return next((device for device in devices if re.search(device.names, driver_name, re.IGNORECASE)), None)
