"""Rank layouts by predicted throughput, and find the nearest valid layouts for rejected ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from launch.plan.coefficients import Coefficients
from launch.plan.from_config import PlannerInput
from launch.plan.hardware import load_frameworks
from launch.plan.job import Array, TrainingJob, take
from launch.plan.layouts import (
    RECOMPUTE_NAMES,
    LayoutTable,
    Sizes,
    enumerate_layouts,
    layouts_of,
)
from launch.plan.memory import predict_peak_memory
from launch.plan.step_time import predict_step_time
from trainer.config.schema import TrainConfig

FULL_SHARE = 0.95
"""Share of a device's memory that a layout may need, as predicted."""
NUM_NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Describe a valid layout that fits, with its predictions."""

    sizes: Sizes
    vp: int
    etp: int
    micro_batch_size: int
    recompute: str
    engine: str
    """Engine and sharding: `deepspeed zero1`, `megatron dist-opt`."""
    step_seconds: float
    tokens_per_second: float
    memory_bytes: float
    overrides: tuple[str, ...]


def describe_layout(sizes: Sizes, *, vp: int, micro_batch_size: int, recompute: str, engine: str) -> str:
    """Return a layout in one line."""
    parts = [str(sizes), f"vp{vp}" if vp > 1 else "", f"micro batch {micro_batch_size}"]
    parts += [f"recompute {recompute}" if recompute != "none" else "", engine]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Describe a rejected layout, with the reason and the nearest layouts that can be used."""

    layout: str
    reason: str
    nearest: tuple[Candidate, ...]


class Ranking:
    """Rank all layouts of a model on a cluster."""

    def __init__(self, config: TrainConfig, setting: PlannerInput, coefficients: Coefficients) -> None:
        """Enumerate all layouts and predict their step time and memory."""
        table, self._refused = enumerate_layouts(config, setting)
        self._resets = _resets(config)
        self.num_valid = len(table)
        self._all = table
        self._seconds, self._bytes = _predict(table, setting, coefficients)
        self._tokens = setting.global_batch_size * setting.model.seq_length
        self._limit = FULL_SHARE * float(setting.machine.memory_bytes)
        self._fits = self._bytes <= self._limit
        order = np.argsort(self._seconds, kind="stable")
        self._order = order[self._fits[order]]
        self._memory_bytes = float(setting.machine.memory_bytes)

    @property
    def num_fitting(self) -> int:
        """Return the number of valid layouts that fit."""
        return len(self._order)

    @property
    def least_bytes(self) -> float:
        """Return the lowest peak memory of all valid layouts."""
        return float(self._bytes.min())

    def best(self, count: int) -> list[Candidate]:
        """Return the fastest layouts, one for each combination of parallel sizes."""
        chosen, seen = [], set()
        for row in self._order:
            sizes = self._sizes(int(row))
            if sizes not in seen:
                seen.add(sizes)
                chosen.append(self._candidate(int(row)))
            if len(chosen) == count:
                break
        return chosen

    def everything(self, limit: int) -> list[Candidate]:
        """Return the fastest layouts of all, in order."""
        return [self._candidate(int(row)) for row in self._order[:limit]]

    def pareto_front(self) -> list[Candidate]:
        """Return the layouts for which no other is both faster and smaller, fastest first."""
        chosen, least = [], np.inf
        for row in self._order:
            if self._bytes[row] < least:
                least = self._bytes[row]
                chosen.append(self._candidate(int(row)))
        return chosen

    def all_points(self, limit: int) -> list[tuple[float, float]]:
        """Return memory in bytes and tokens per second of an even sample of all layouts, whether or not they fit."""
        step = max(len(self._seconds) // limit, 1)
        return [
            (float(self._bytes[row]), self._tokens / float(self._seconds[row]))
            for row in range(0, len(self._seconds), step)
        ]

    def nearest(self, sizes: Sizes, *, micro_batch_size: int = 1, recompute: str = "none") -> tuple[Candidate, ...]:
        """Return the layouts that fit and are nearest to a rejected one; of equally near ones, the fastest.

        The distance is the number of doublings between the sizes, plus half of that between the micro-batch sizes, plus
        a quarter for a different recomputation.
        """
        if not len(self._order):
            return ()
        table, rows = self._all, self._order
        distance = np.zeros(len(rows))
        for name in ("tp", "pp", "cp", "ep"):
            distance += np.abs(np.log2(getattr(table, name)[rows] / getattr(sizes, name)))
        distance += 0.5 * np.abs(np.log2(table.micro_batch_size[rows] / micro_batch_size))
        distance += 0.25 * (table.recompute[rows] != RECOMPUTE_NAMES.index(recompute))
        chosen, seen = [], set()
        for place in np.lexsort((self._seconds[rows], distance)):
            found = self._sizes(int(rows[place]))
            if found not in seen:
                seen.add(found)
                chosen.append(self._candidate(int(rows[place])))
            if len(chosen) == NUM_NEAREST:
                break
        return tuple(chosen)

    def refusals(self) -> Iterator[Refusal]:
        """Yield parallel sizes without a valid layout, and those that never fit, each with the nearest layouts."""
        for refused in self._refused:
            yield Refusal(layout=str(refused.sizes), reason=refused.reason, nearest=self.nearest(refused.sizes))
        for sizes, least in self._over_memory():
            need, have = least / 2**30, self._memory_bytes / 2**30
            reason = f"needs at least {need:.0f} GiB of memory, but only {FULL_SHARE:.0%} of {have:.0f} GiB can be used"
            yield Refusal(layout=str(sizes), reason=reason, nearest=self.nearest(sizes, recompute="full"))

    def _over_memory(self) -> list[tuple[Sizes, float]]:
        least: dict[Sizes, float] = {}
        for row in np.flatnonzero(~self._fits):
            sizes = self._sizes(int(row))
            least[sizes] = min(least.get(sizes, np.inf), float(self._bytes[row]))
        for row in self._order:
            least.pop(self._sizes(int(row)), None)
        return sorted(least.items(), key=lambda item: item[1])

    def _sizes(self, row: int) -> Sizes:
        table = self._all
        return Sizes(**{name: int(getattr(table, name)[row]) for name in ("tp", "pp", "cp", "ep", "dp")})

    def _candidate(self, row: int) -> Candidate:
        table = self._all
        return Candidate(
            sizes=self._sizes(row),
            vp=int(table.vp[row]),
            etp=int(table.etp[row]),
            micro_batch_size=int(table.micro_batch_size[row]),
            recompute=RECOMPUTE_NAMES[int(table.recompute[row])],
            engine=table.engines[int(table.engine[row])].name_and_sharding,
            step_seconds=float(self._seconds[row]),
            tokens_per_second=self._tokens / float(self._seconds[row]),
            memory_bytes=float(self._bytes[row]),
            overrides=(*table.overrides(row), *self._resets),
        )


def _predict(table: LayoutTable, setting: PlannerInput, coefficients: Coefficients) -> tuple[Array, Array]:
    """Return the step time in seconds and the peak memory in bytes: [n] each."""
    seconds, memory = np.zeros(len(table)), np.zeros(len(table))
    layouts = layouts_of(table, setting)
    frameworks = load_frameworks()
    for name in sorted({choice.framework for choice in table.engines}):
        uses = np.array([choice.framework == name for choice in table.engines])[table.engine.astype(int)]
        if not uses.any():
            continue
        job = TrainingJob(
            model=setting.shape, layout=take(layouts, uses), machine=setting.machine, framework=frameworks[name]
        )
        rates = coefficients.rates(device=setting.device.name, number_format=setting.number_format, framework=name)
        seconds[uses] = predict_step_time(job, rates).total
        memory[uses] = predict_peak_memory(
            job, coefficients.memory_rates(device=setting.device.name, framework=name)
        ).total
    return seconds, memory


def _resets(config: TrainConfig) -> tuple[str, ...]:
    """Return the overrides that reset the layout settings of a configuration."""
    names = (
        "data_parallel_size",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "pipeline_model_parallel_layout",
    )
    return tuple(f"parallel.{name}=null" for name in names if getattr(config.parallel, name) is not None)
