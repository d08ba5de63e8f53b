"""Load the planner's coefficients, which are fitted to published runs, and compute rates from them."""

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
    """Hold shares of data-sheet rates, and a few constants; one number per field, or one per job."""

    gemm: Number
    """Share of the peak that large matrix products reach, in the job's number format."""
    gemm_16bit: Number
    """The same in 16 bits, for the products that fp8 jobs compute in 16 bits."""
    attention: Number
    """Share of the 16-bit peak that fused attention reaches, forward."""
    attention_kernel: Number
    """Rate of a framework's fused attention kernel relative to FlashAttention 2."""
    memory: Number
    """Share of the memory bandwidth that elementwise passes over activations reach."""
    link: Number
    """Share of the link bandwidth that collectives within a domain reach."""
    network: Number
    """Share of the network bandwidth that collectives between domains reach."""
    framework: Number
    """Compute time in a framework relative to that of its kernels alone."""
    expert_gemm: Number
    """Rate of the experts' matrix products relative to dense ones."""
    narrow_width: Number
    """Columns per device at which products take twice the time of their arithmetic."""
    small_area: Number
    """Tokens times columns per device at which they do, because of partly filled waves of tiles."""
    launch_seconds: Number
    """Per layer and pass: kernels too small to be modelled, and gaps between kernels."""
    expert_launch_seconds: Number
    """The host's time to launch one kernel of a layer with experts (`step_time.LAYER_LAUNCHES`): a lower bound, where
    the device waits for the host."""
    step_seconds: Number
    """Constant time per step."""
    straggling: Number
    """Growth of the time of collectives between domains with each doubling of the number of domains."""
    rank_seconds: Number
    """Time per rank and step, where each rank broadcasts its own weights."""


@dataclass(frozen=True, kw_only=True)
class MemoryRates:
    """Hold the factors of the memory model; one number per field, or one per job."""

    activations: Number
    """Activations that a framework keeps, relative to those that the formulas count."""
    logits: Number
    """Bytes per logit, relative to those expected of the framework."""
    reserve: Number
    """Fragmentation, as a share of transient memory: activations, logits, gathered weights."""
    buffer_gib: Number
    """Communication buffers per process group."""
    context_gib: Number
    """Driver, kernels and libraries, which nvidia-smi includes and torch's allocator does not."""


T = TypeVar("T", Rates, MemoryRates)

COEFFICIENTS_FILE = Path(__file__).parent / "data" / "coefficients.yaml"


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Describe the log-normal prior of a coefficient."""

    centre: float
    log_deviation: float


_CUDNN_DIES = ("hopper", "blackwell")
"""Dies for which cuDNN and FlashAttention 3 have dedicated kernels; on others, FlashAttention 2 is equally fast."""
_BY_FORMAT = {"fp32": 0.85, "fp16": 0.72, "bf16": 0.72, "fp8": 0.6, "fp4": 0.5}
_GENERAL = {
    "attention": Prior(centre=0.5, log_deviation=0.25),
    # FlashAttention 2 reaches 0.73 of A100's peak without a mask (Dao 2023), 0.34 of H100's with a causal one (Shah et
    # al. 2024); cuDNN 0.55 of B200's (1613 TFLOP/s / 1.3, arXiv:2603.05451). Relative to 0.5, cuDNN's also to 1.6; of
    # A100's, less a sixth for the mask.
    "attention.ampere": Prior(centre=1.25, log_deviation=0.15),
    "attention.hopper": Prior(centre=0.7, log_deviation=0.15),
    "attention.blackwell": Prior(centre=0.7, log_deviation=0.15),
    # Relative to FlashAttention 2. Triton: as of 2022; cuDNN: 1.5 to 2 (Shah et al. 2024, for FlashAttention 3).
    "attention_kernel.triton": Prior(centre=0.7, log_deviation=0.3),
    "attention_kernel.cudnn": Prior(centre=1.6, log_deviation=0.2),
    "memory": Prior(centre=0.75, log_deviation=0.15),
    "framework": Prior(centre=1.05, log_deviation=0.1),
    "launch_seconds": Prior(centre=1e-4, log_deviation=0.7),
    # A common figure for one operation of PyTorch without CUDA graphs, its Python included.
    "expert_launch_seconds": Prior(centre=1e-5, log_deviation=0.5),
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
    # A few cores have no waves of tiles to fill.
    "narrow_width.cpu": Prior(centre=10, log_deviation=0.7),
    "small_area.cpu": Prior(centre=1e3, log_deviation=0.7),
    # Without a driver: only libraries, as measured on our own processes.
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
"""Prior log deviation of a device, family or framework from the general case, by kind of coefficient."""
EFFICIENCY_OF = ("gemm", "gemm_16bit", "attention")
"""Rates that are multiplied by the device's efficiency."""
_UPPER = {"gemm": 0.95, "attention": 0.85, "memory": 1.0, "link": 1.0, "network": 1.0}


def prior_of(name: str) -> Prior:
    """Return the prior of a coefficient by its name."""
    if name in _GENERAL:
        return _GENERAL[name]
    kind, *rest = name.split(".")
    if kind != "gemm":
        return Prior(centre=1.0, log_deviation=_SPECIAL[kind])
    if rest[0] in _BY_FORMAT:
        return Prior(centre=_BY_FORMAT[rest[0]], log_deviation=0.2)
    # One die in one format; one device type differs from others with the same die only by clocks and power.
    return Prior(centre=1.0, log_deviation=0.12 if len(rest) > 1 else 0.05)


def upper_bound_of(field_name: str) -> float:
    """Return the upper bound of a rate: no rate exceeds the data sheet's, and dense products stay below it."""
    return _UPPER.get(field_name.removesuffix("_16bit"), np.inf)


def names_of(*, device: str, number_format: str, framework: str) -> dict[str, tuple[str, ...]]:
    """Return the coefficients whose product is each field of `Rates`, for one job."""
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
    """Return the coefficients whose product is each field of `MemoryRates`.

    Args:
        sees_device: whether the figure is the memory of the whole device, as nvidia-smi reports it, or that of torch's
            allocator.
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
    """Compute the rates of many jobs from one vector of coefficients."""

    def __init__(self, kind: type[T], names: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Number the coefficients of these jobs.

        Args:
            kind: `Rates` or `MemoryRates`.
            names: those of each job, from `names_of` or `memory_names_of`.
        """
        self._kind: type[T] = kind
        self.names = sorted({name for each in names for factors in each.values() for name in factors})
        place = {name: index for index, name in enumerate(self.names)}
        # The index after the last stands for no coefficient, with value 1.
        self._index: dict[str, Array] = {}
        for field_name in names[0]:
            width = max(len(each[field_name]) for each in names)
            index = np.full((len(names), width), len(place))
            for row, each in enumerate(names):
                index[row, : len(each[field_name])] = [place[name] for name in each[field_name]]
            self._index[field_name] = index

    def rates(self, logarithms: Array, where: Any = slice(None)) -> T:
        """Return the rates of the jobs that `where` selects: [n] per field."""
        padded = np.append(logarithms, 0.0)
        return self._kind(**{name: np.exp(padded[index[where]].sum(axis=1)) for name, index in self._index.items()})


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Hold the fitted coefficients of both models by name; missing ones have the centers of their priors."""

    step_time: dict[str, float]
    memory: dict[str, float]
    runs: dict[str, int] = field(default_factory=dict)
    """Number of published step times in the fit, by device, number format and kind of model: `h100_sxm.bf16.dense`."""
    sources: list[str] = field(default_factory=list)
    """Publications that contain them."""

    def rates(self, *, device: str, number_format: str, framework: str) -> Rates:
        """Return the rates of the time model for one kind of job."""
        names = names_of(device=device, number_format=number_format, framework=framework)
        values = {each: self._product(self.step_time, names[each]) for each in names}
        for each in EFFICIENCY_OF:
            values[each] *= load_devices()[device].efficiency
        values = {each: min(value, upper_bound_of(each)) for each, value in values.items()}
        return Rates(**values)

    def memory_rates(self, *, device: str, framework: str) -> MemoryRates:
        """Return the factors of the memory model for a framework, for the memory of the whole device."""
        names = memory_names_of(framework=framework, sees_device=True)
        if device == "cpu":
            names |= {"buffer_gib": ("buffer_gib.cpu",), "context_gib": ("context_gib.cpu",)}
        return MemoryRates(**{each: self._product(self.memory, names[each]) for each in names})

    def _product(self, table: Mapping[str, float], names: Sequence[str]) -> float:
        return float(np.prod([table.get(name, prior_of(name).centre) for name in names]))

    def knows(self, device: str, number_format: str, *, kind: str) -> bool:
        """Return whether the fit includes a published run on a device type in a number format.

        Args:
            kind: dense or moe.
        """
        own = "bf16" if number_format == "fp16" and f"{device}.bf16.{kind}" in self.runs else number_format
        return self.runs.get(f"{device}.{own}.{kind}", 0) > 0


def load_coefficients(path: Path = COEFFICIENTS_FILE) -> Coefficients:
    """Read coefficients that `benchmarks.planner.fit` wrote."""
    return Coefficients(**yaml.safe_load(path.read_text(encoding="utf-8")))
