"""The coefficients of the time model: their names, what is believed of them before any fit, and their file.

Each is positive and has a prior: a centre, and how far (in logarithms, one standard deviation) published runs may pull
it away. Where no run speaks of one, the prior stands.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import yaml  # type: ignore[import-untyped]

from launch.plan.arrays import Array
from launch.plan.hardware import load_devices
from launch.plan.memory_rates import MemoryRates
from launch.plan.rates import Rates

T = TypeVar("T", Rates, MemoryRates)

COEFFICIENTS_FILE = Path(__file__).parent / "data" / "coefficients.yaml"


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of a coefficient before a fit."""

    centre: float
    log_deviation: float


TRITON_ATTENTION = ("llm-foundry/Composer FSDP",)
"""Frameworks whose published runs used the Triton kernel of 2022, for its position biases."""
_BY_FORMAT = {"fp32": 0.85, "fp16": 0.72, "bf16": 0.72, "fp8": 0.6, "fp4": 0.5}
_GLOBAL = {
    "link": Prior(centre=0.7, log_deviation=0.2),
    "network": Prior(centre=0.7, log_deviation=0.2),
    "attention_kernel.today": Prior(centre=1.0, log_deviation=0.001),
    "attention_kernel.triton": Prior(centre=0.7, log_deviation=0.3),
    "expert_launch_seconds": Prior(centre=2e-3, log_deviation=0.7),
    "expert_gemm": Prior(centre=0.6, log_deviation=0.3),
    "narrow_width": Prior(centre=50, log_deviation=0.7),
    "small_area": Prior(centre=4e5, log_deviation=0.7),
    "narrow_width.cpu": Prior(centre=10, log_deviation=0.7),
    "small_area.cpu": Prior(centre=1e3, log_deviation=0.7),
    "step_seconds": Prior(centre=0.02, log_deviation=0.7),
    "straggling": Prior(centre=0.05, log_deviation=0.7),
    "rank_seconds": Prior(centre=2e-3, log_deviation=0.7),
}

_UPPER = {"gemm": 0.95, "attention": 0.85, "memory": 1.0, "link": 1.0, "network": 1.0}
_MEMORY = {
    "activations": Prior(centre=1.0, log_deviation=0.3),
    "logits": Prior(centre=1.0, log_deviation=0.3),
    "reserve": Prior(centre=0.2, log_deviation=0.4),
    "buffer_gib": Prior(centre=1.0, log_deviation=0.5),
    "context_gib": Prior(centre=1.5, log_deviation=0.5),
    # A process without a driver: libraries alone, as our own processes have them.
    "buffer_gib.cpu": Prior(centre=0.05, log_deviation=0.5),
    "context_gib.cpu": Prior(centre=0.55, log_deviation=0.5),
}


def prior_of(name: str) -> Prior:
    """The prior of a coefficient by its name."""
    kind = name.split(".")[0]
    if kind == "gemm":
        return Prior(centre=_BY_FORMAT[name.rsplit(".", 1)[1]], log_deviation=0.25)
    if kind == "attention":
        return Prior(centre=0.5, log_deviation=0.3)
    if kind == "memory":
        return Prior(centre=0.75, log_deviation=0.2)
    if kind == "framework":
        return Prior(centre=1.1, log_deviation=0.12)
    if kind == "launch_seconds":
        return Prior(centre=1e-4, log_deviation=1.0)
    return _MEMORY.get(name) or _MEMORY.get(kind) or _GLOBAL[name]


def upper_bound_of(name: str) -> float:
    """What a coefficient cannot exceed: no rate is above the data sheet's, and dense products stay below it."""
    return _UPPER.get(name.split(".")[0], 1e9)


def names_of(*, device: str, number_format: str, framework: str) -> dict[str, str]:
    """The coefficient behind each field of `Rates`, for one job."""
    fitted_as = load_devices()[device].fitted_as
    sixteen = "fp32" if number_format == "fp32" else "bf16"
    own = sixteen if number_format == "fp16" else number_format
    names = {field.name: field.name for field in dataclasses.fields(Rates)}
    if device == "cpu":  # a few cores: no waves of tiles to fill
        names |= {"narrow_width": "narrow_width.cpu", "small_area": "small_area.cpu"}
    return names | {
        "gemm": f"gemm.{fitted_as}.{own}",
        "gemm_16bit": f"gemm.{fitted_as}.{sixteen}",
        "attention": f"attention.{fitted_as}",
        "attention_kernel": f"attention_kernel.{'triton' if framework in TRITON_ATTENTION else 'today'}",
        "memory": f"memory.{fitted_as}",
        "framework": f"framework.{framework}",
        "launch_seconds": f"launch_seconds.{framework}",
    }


def memory_names_of(*, framework: str, sees_device: bool) -> dict[str, str]:
    """The coefficient behind each field of `MemoryRates`.

    Args:
        sees_device: whether the figure is that of the whole device, as nvidia-smi tells it, or of torch's allocator.
    """
    return {
        "activations": f"activations.{framework}",
        "logits": f"logits.{framework}",
        "reserve": "reserve",
        "buffer_gib": "buffer_gib." + ("device" if sees_device else "allocator"),
        "context_gib": "context_gib." + ("device" if sees_device else "allocator"),
    }


class RateLookup(Generic[T]):
    """Rates of many jobs from one vector of coefficients."""

    def __init__(self, kind: type[T], names: Sequence[Mapping[str, str]]) -> None:
        """Number the coefficients of these jobs.

        Args:
            kind: `Rates` or `MemoryRates`.
            names: of each job, from `names_of` or `memory_names_of`.
        """
        self._kind: type[T] = kind
        self.names = sorted({name for each in names for name in each.values()})
        place = {name: index for index, name in enumerate(self.names)}
        self._index = {field: np.array([place[each[field]] for each in names]) for field in names[0]}

    def rates(self, logarithms: Array, where: Any = slice(None)) -> T:
        """[n] per field, of the jobs that `where` chooses."""
        values = np.exp(logarithms)
        return self._kind(**{field: values[index[where]] for field, index in self._index.items()})


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The fitted coefficients of both models, by name; those that are missing have their priors' centres."""

    step_time: dict[str, float]
    memory: dict[str, float]

    def rates(self, *, device: str, number_format: str, framework: str) -> Rates:
        """The time model's coefficients of one kind of job."""
        names = names_of(device=device, number_format=number_format, framework=framework)
        return Rates(**{field: self.step_time.get(name, prior_of(name).centre) for field, name in names.items()})

    def memory_rates(self, *, device: str, framework: str) -> MemoryRates:
        """The memory model's coefficients of a framework, for the memory of the whole device."""
        names = memory_names_of(framework=framework, sees_device=True)
        if device == "cpu":
            names |= {"buffer_gib": "buffer_gib.cpu", "context_gib": "context_gib.cpu"}
        return MemoryRates(**{field: self.memory.get(name, prior_of(name).centre) for field, name in names.items()})


def load_coefficients(path: Path = COEFFICIENTS_FILE) -> Coefficients:
    """Read a file that `benchmarks.planner.fit` or a calibration wrote."""
    return Coefficients(**yaml.safe_load(path.read_text(encoding="utf-8")))
