"""Devices and frameworks that the planner knows."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.plan.job import Framework, Machine

_NAMES = ("family", "attention")
"""Entries that are no numbers."""
FRAMEWORKS_FILE = Path(__file__).parent / "data" / "frameworks.yaml"


@functools.cache
def load_frameworks() -> dict[str, Framework]:
    """All frameworks by name; see data/frameworks.yaml."""
    return {
        name: Framework(**{key: value for key, value in entry.items() if key not in _NAMES})
        for name, entry in _load_table().items()
    }


def family_of(framework: str) -> str:
    """The code that a framework shares with others; its own name for one that shares none or is not known."""
    return str(_load_table().get(framework, {}).get("family", framework))


def attention_kernel_of(framework: str) -> str:
    """The kernel of fused attention that a framework takes where the device has it: flash, cudnn or triton."""
    return str(_load_table().get(framework, {}).get("attention", "flash"))


@functools.cache
def _load_table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(FRAMEWORKS_FILE.read_text(encoding="utf-8"))
    return table


DEVICES_FILE = Path(__file__).parent / "data" / "devices.yaml"
_LOW_PRECISION = {"fp8": 1, "fp4": 2}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One type of accelerator, as its maker describes it; see data/devices.yaml."""

    name: str
    names: str
    """A regular expression that its driver's name matches."""
    tflops: dict[str, float]
    """By number format; dense."""
    memory_gib: float
    memory_gb_per_second: float
    link_gb_per_second: float
    link_domain: int
    """Devices that links join."""
    network_gb_per_second: float
    price_per_hour: float
    spans_hosts: bool = False
    """Whether links join devices of several hosts."""
    die: str = ""
    """Types of one die reach the same shares of their peaks; empty is a die of its own."""
    efficiency: float = 1.0
    """Shares of peak that products and attention reach, over those of `efficiency_of`."""
    efficiency_of: str | None = None
    """The type whose fitted coefficients stand in."""

    @property
    def fitted_as(self) -> str:
        """The type whose coefficients apply."""
        return self.efficiency_of or self.name

    def machine(self, *, number_format: str) -> Machine:
        """The figures that formulas take, for products in a number format."""
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
    """All devices by name."""
    table = yaml.safe_load(DEVICES_FILE.read_text(encoding="utf-8"))
    devices = {name: Device(**{"name": name, "die": name, **entry}) for name, entry in table.items()}
    return {name: dataclasses.replace(device, die=devices[device.fitted_as].die) for name, device in devices.items()}


def find_device(driver_name: str) -> Device | None:
    """The device by the name that its driver gives it; None for one that is not known."""
    devices = load_devices().values()
    return next((device for device in devices if re.search(device.names, driver_name, re.IGNORECASE)), None)
