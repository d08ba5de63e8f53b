"""Coefficients of the planner, fitted to published runs, and the rates that follow from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import yaml  # type: ignore[import-untyped]

from launch.plan.hardware import attention_kernel_of, family_of, load_devices
from launch.plan.job import Array, Number


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of data sheet rates, and a few constants; one number per field, or one per job."""

    gemm: Number
    """Share of peak that large matrix products reach, in the format of the job."""
    gemm_16bit: Number
    """The same in 16 bits, for what fp8 jobs keep there."""
    attention: Number
    """Share of the 16-bit peak that fused attention reaches, forward."""
    attention_kernel: Number
    """Rate of an older kernel of fused attention, over that of today's."""
    memory: Number
    """Share of the memory's rate that passes over activations reach."""
    link: Number
    """Share of the link's rate that collectives within a domain reach."""
    network: Number
    """Share of the network's rate that collectives between domains reach."""
    framework: Number
    """Time of computing in a framework, over what its work alone would take."""
    expert_gemm: Number
    """Rate of experts' products, over that of dense ones."""
    narrow_width: Number
    """Columns per device at which products take twice as long as their operations say."""
    small_area: Number
    """Tokens times columns per device at which they do, for want of tiles."""
    launch_seconds: Number
    """Per layer and pass: kernels that are too small to be counted, and gaps between them."""
    expert_launch_seconds: Number
    """The same for a layer of experts, in all three passes: where the device waits for the host, it is this long."""
    step_seconds: Number
    """Per step."""
    straggling: Number
    """Growth of collectives between domains with each doubling of their number."""
    rank_seconds: Number
    """Per rank and step, where each rank broadcasts its own weights."""


@dataclass(frozen=True, kw_only=True)
class MemoryRates:
    """A few factors; one number per field, or one per job."""

    activations: Number
    """Activations that a framework keeps, over those that the formulas count."""
    logits: Number
    """Bytes per logit, over those that are expected of the framework."""
    reserve: Number
    """Fragments, as a share of memory that comes and goes: activations, logits, gathered weights."""
    buffer_gib: Number
    """Buffers of collectives."""
    context_gib: Number
    """Driver, kernels, libraries: what a measurement of the whole device sees, and one of the allocator does not."""


T = TypeVar("T", Rates, MemoryRates)

COEFFICIENTS_FILE = Path(__file__).parent / "data" / "coefficients.yaml"


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of a coefficient before a fit."""

    centre: float
    log_deviation: float


_CUDNN_DIES = ("hopper", "blackwell")
"""Dies for which cuDNN and FlashAttention 3 have kernels of their own; on others FlashAttention 2 is as good."""
_BY_FORMAT = {"fp32": 0.85, "fp16": 0.72, "bf16": 0.72, "fp8": 0.6, "fp4": 0.5}
_GENERAL = {
    "attention": Prior(centre=0.5, log_deviation=0.25),
    # Over FlashAttention 2. Of Triton, that of 2022; of cuDNN 1.5 to 2 (Shah et al. 2024, of FlashAttention 3).
    "attention_kernel.triton": Prior(centre=0.7, log_deviation=0.3),
    "attention_kernel.cudnn": Prior(centre=1.6, log_deviation=0.2),
    "memory": Prior(centre=0.75, log_deviation=0.15),
    "framework": Prior(centre=1.05, log_deviation=0.1),
    "launch_seconds": Prior(centre=1e-4, log_deviation=0.7),
    "expert_launch_seconds": Prior(centre=5e-3, log_deviation=0.5),
    "link": Prior(centre=0.7, log_deviation=0.2),
    "network": Prior(centre=0.7, log_deviation=0.2),
    "expert_gemm": Prior(centre=0.6, log_deviation=0.3),
    "narrow_width": Prior(centre=50, log_deviation=0.7),
    "small_area": Prior(centre=4e5, log_deviation=0.7),
    "step_seconds": Prior(centre=0.02, log_deviation=0.7),
    "straggling": Prior(centre=0.05, log_deviation=0.7),
    "rank_seconds": Prior(centre=2e-3, log_deviation=0.7),
    "activations": Prior(centre=1.0, log_deviation=0.2),
    "logits": Prior(centre=1.0, log_deviation=0.2),
    "reserve": Prior(centre=0.2, log_deviation=0.4),
    "buffer_gib.allocator": Prior(centre=1.0, log_deviation=0.5),
    "buffer_gib.device": Prior(centre=1.0, log_deviation=0.5),
    "context_gib.allocator": Prior(centre=1.5, log_deviation=0.5),
    "context_gib.device": Prior(centre=1.5, log_deviation=0.5),
    # A few cores: no waves of tiles to fill.
    "narrow_width.cpu": Prior(centre=10, log_deviation=0.7),
    "small_area.cpu": Prior(centre=1e3, log_deviation=0.7),
    # A process without a driver: libraries alone, as our own processes have them.
    "buffer_gib.cpu": Prior(centre=0.05, log_deviation=0.5),
    "context_gib.cpu": Prior(centre=0.55, log_deviation=0.5),
}
_SPECIAL = {
    "attention": 0.15,
    "memory": 0.1,
    "framework": 0.1,
    "launch_seconds": 0.7,
    "expert_launch_seconds": 0.5,
    "activations": 0.2,
    "logits": 0.2,
}
"""How far a device, a family or a framework may be from the general case, by kind of coefficient."""
EFFICIENCY_OF = ("gemm", "gemm_16bit", "attention")
"""Rates that a device's own efficiency multiplies."""
_UPPER = {"gemm": 0.95, "attention": 0.85, "memory": 1.0, "link": 1.0, "network": 1.0}


def prior_of(name: str) -> Prior:
    """The prior of a coefficient by its name."""
    if name in _GENERAL:
        return _GENERAL[name]
    kind, *rest = name.split(".")
    if kind != "gemm":
        return Prior(centre=1.0, log_deviation=_SPECIAL[kind])
    if rest[0] in _BY_FORMAT:
        return Prior(centre=_BY_FORMAT[rest[0]], log_deviation=0.2)
    # One die in one format; and one type of device, which differs from its siblings by clocks and power alone.
    return Prior(centre=1.0, log_deviation=0.12 if len(rest) > 1 else 0.05)


def upper_bound_of(field_name: str) -> float:
    """What a rate cannot exceed: no rate is above the data sheet's, and dense products stay below it."""
    return _UPPER.get(field_name.removesuffix("_16bit"), np.inf)


def names_of(*, device: str, number_format: str, framework: str) -> dict[str, tuple[str, ...]]:
    """The coefficients whose product each field of `Rates` is, for one job."""
    kind = load_devices()[device]
    sixteen = "fp32" if number_format == "fp32" else "bf16"
    own = sixteen if number_format == "fp16" else number_format
    family, kernel = family_of(framework), attention_kernel_of(framework)
    if kernel == "cudnn" and kind.die not in _CUDNN_DIES:
        kernel = "flash"
    names: dict[str, tuple[str, ...]] = {each.name: (each.name,) for each in dataclasses.fields(Rates)}
    if device == "cpu":
        names |= {"narrow_width": ("narrow_width.cpu",), "small_area": ("small_area.cpu",)}
    return names | {
        "gemm": (f"gemm.{own}", f"gemm.{kind.die}.{own}", f"gemm.{kind.fitted_as}"),
        "gemm_16bit": (f"gemm.{sixteen}", f"gemm.{kind.die}.{sixteen}", f"gemm.{kind.fitted_as}"),
        "attention": ("attention", f"attention.{kind.die}"),
        "attention_kernel": () if kernel == "flash" else (f"attention_kernel.{kernel}",),
        "memory": ("memory", f"memory.{kind.die}"),
        "framework": ("framework", f"framework.{family}", f"framework.{family}.{framework}"),
        "launch_seconds": ("launch_seconds", f"launch_seconds.{framework}"),
        "expert_launch_seconds": ("expert_launch_seconds", f"expert_launch_seconds.{framework}"),
    }


def memory_names_of(*, framework: str, sees_device: bool) -> dict[str, tuple[str, ...]]:
    """The coefficients whose product each field of `MemoryRates` is.

    Args:
        sees_device: whether the figure is that of the whole device, as nvidia-smi tells it, or of torch's allocator.
    """
    view = "device" if sees_device else "allocator"
    return {
        "activations": ("activations", f"activations.{framework}"),
        "logits": ("logits", f"logits.{framework}"),
        "reserve": ("reserve",),
        "buffer_gib": (f"buffer_gib.{view}",),
        "context_gib": (f"context_gib.{view}",),
    }


class RateLookup(Generic[T]):
    """Rates of many jobs from one vector of coefficients."""

    def __init__(self, kind: type[T], names: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Number the coefficients of these jobs.

        Args:
            kind: `Rates` or `MemoryRates`.
            names: of each job, from `names_of` or `memory_names_of`.
        """
        self._kind: type[T] = kind
        self.names = sorted({name for each in names for factors in each.values() for name in factors})
        place = {name: index for index, name in enumerate(self.names)}
        # The place after the last is that of no coefficient: 1.
        self._index: dict[str, Array] = {}
        for field_name in names[0]:
            width = max(len(each[field_name]) for each in names)
            index = np.full((len(names), width), len(place))
            for row, each in enumerate(names):
                index[row, : len(each[field_name])] = [place[name] for name in each[field_name]]
            self._index[field_name] = index

    def rates(self, logarithms: Array, where: Any = slice(None)) -> T:
        """[n] per field, of the jobs that `where` chooses."""
        padded = np.append(logarithms, 0.0)
        return self._kind(**{name: np.exp(padded[index[where]].sum(axis=1)) for name, index in self._index.items()})


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The fitted coefficients of both models, by name; those that are missing have their priors' centres."""

    step_time: dict[str, float]
    memory: dict[str, float]
    runs: dict[str, int] = field(default_factory=dict)
    """Published step times that they were fitted on, by device, number format and whether the model has experts:
    `h100_sxm.bf16.dense`."""
    sources: list[str] = field(default_factory=list)
    """Where those were published."""

    def rates(self, *, device: str, number_format: str, framework: str) -> Rates:
        """The time model's coefficients of one kind of job."""
        names = names_of(device=device, number_format=number_format, framework=framework)
        values = {each: self._product(self.step_time, names[each]) for each in names}
        for each in EFFICIENCY_OF:
            values[each] *= load_devices()[device].efficiency
        values = {each: min(value, upper_bound_of(each)) for each, value in values.items()}
        return Rates(**values)

    def memory_rates(self, *, device: str, framework: str) -> MemoryRates:
        """The memory model's coefficients of a framework, for the memory of the whole device."""
        names = memory_names_of(framework=framework, sees_device=True)
        if device == "cpu":
            names |= {"buffer_gib": ("buffer_gib.cpu",), "context_gib": ("context_gib.cpu",)}
        return MemoryRates(**{each: self._product(self.memory, names[each]) for each in names})

    def _product(self, table: Mapping[str, float], names: Sequence[str]) -> float:
        return float(np.prod([table.get(name, prior_of(name).centre) for name in names]))

    def knows(self, device: str, number_format: str, *, kind: str) -> bool:
        """Whether a published run of a type of device in a format was among those that the fit saw.

        Args:
            kind: dense or moe.
        """
        own = "bf16" if number_format == "fp16" and f"{device}.bf16.{kind}" in self.runs else number_format
        return self.runs.get(f"{device}.{own}.{kind}", 0) > 0


def load_coefficients(path: Path = COEFFICIENTS_FILE) -> Coefficients:
    """Read a file that `benchmarks.planner.fit` or a calibration wrote."""
    return Coefficients(**yaml.safe_load(path.read_text(encoding="utf-8")))
