"""Suggest other numbers of hosts and other batch sizes when no layout can be used."""

import dataclasses
from collections.abc import Callable, Iterator

from launch.plan.coefficients import Coefficients
from launch.plan.from_config import planner_input_of
from launch.plan.ranking import Ranking
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or
from trireme.progress import format_number

_MAX_TRIES = 12
"""Numbers of hosts, and batch sizes, to try in each direction."""
_MAX_DOUBLINGS = 8
_LARGEST_STEP = 0.125
"""Largest distance between two batch sizes to try, as a share of the batch size."""


def advise(config: TrainConfig, ranking: Ranking, coefficients: Coefficients) -> Iterator[str]:
    """Yield one sentence per setting whose change would give layouts that fit; none if there are some already."""
    if ranking.num_fitting:
        return
    if ranking.num_valid:
        yield (
            f"No layout fits: of {format_number(ranking.num_valid, 'valid layout')}, the one with the lowest memory"
            f" needs {ranking.least_bytes / 2**30:.0f} GiB per device."
        )
    else:
        hosts = format_number(config.cluster.num_nodes, "host")
        yield (
            f"No layout is valid: training.global_batch_size={config.training.global_batch_size} and this model cannot"
            f" be distributed over the {planner_input_of(config).world_size} devices of {hosts}."
        )

    def fits(changed: TrainConfig) -> bool:
        return Ranking(changed, planner_input_of(changed), coefficients).num_fitting > 0

    hosts_found = list(_near(config.cluster.num_nodes, _hosts(config), lambda count: fits(_with_hosts(config, count))))
    if hosts_found:
        yield f"With this batch size, cluster.num_nodes={join_or(hosts_found)} has layouts that fit."
    batches = list(
        _near(config.training.global_batch_size, _batches(config), lambda size: fits(_with_batch(config, size)))
    )
    if batches and not ranking.num_valid:
        yield f"On these hosts, training.global_batch_size={join_or(batches)} has layouts that fit."
    if not hosts_found and not batches:
        yield "No nearby number of hosts or batch size has layouts that fit. Use another model or device."


def _with_hosts(config: TrainConfig, count: int) -> TrainConfig:
    return dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, num_nodes=count))


def _with_batch(config: TrainConfig, size: int) -> TrainConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, global_batch_size=size))


def _hosts(config: TrainConfig) -> Iterator[int]:
    """Yield the numbers of hosts to try: those around the configured one, and doublings."""
    count = config.cluster.num_nodes
    for step in range(1, _MAX_TRIES + 1):
        yield from (count - step, count + step)
    yield from (count * 2**power for power in range(1, _MAX_DOUBLINGS + 1))


def _batches(config: TrainConfig) -> Iterator[int]:
    """Yield the batch sizes to try: multiples of the number of devices, or else of one of its divisors."""
    size, world = config.training.global_batch_size, planner_input_of(config).world_size
    for ranks in reversed(divisors(world)):
        if ranks <= _LARGEST_STEP * size or ranks == 1:
            below = size // ranks
            yield from (ranks * multiple for multiple in range(below - 2, below + 4))
            return


def _near(wanted: int, candidates: Iterator[int], is_good: Callable[[int], bool]) -> Iterator[int]:
    """Yield the nearest good number below, and the nearest above."""
    tried = sorted({each for each in candidates if each > 0 and each != wanted}, key=lambda each: abs(each - wanted))
    for side in ([each for each in tried if each < wanted], [each for each in tried if each > wanted]):
        yield from (each for each in [next(filter(is_good, side), None)] if each is not None)
