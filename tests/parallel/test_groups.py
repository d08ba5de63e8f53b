"""Process groups on a host without CUDA: layouts share them, and each of them is what its name says."""

import dataclasses
import os
from typing import Any

from tests.distributed.harness import run_distributed
from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from torch import distributed  # noqa: E402

from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.parallel.world import World, end_layout, start_world, stop_world  # noqa: E402

LAYOUTS = {
    "dp": ParallelConfig(),
    "tp": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
    "pp": ParallelConfig(pipeline_model_parallel_size=2),
    "cp": ParallelConfig(context_parallel_size=2),
    "ep": ParallelConfig(expert_model_parallel_size=2),
}
BOTH = {
    "dp": {"dp", "dp_cp", "intra_dp_cp", "tp_dp_cp", "expt_dp", "intra_expt_dp", "intra_dist_opt"},
    "tp": {"tp", "mp", "tp_cp", "tp_dp_cp", "expt_tp", "tp_ep", "tp_ep_pp", "intra_dist_opt"},
    "pp": {"pp", "mp", "embd", "tp_ep_pp", "intra_dist_opt"},
    "cp": {"cp", "tp_cp", "dp_cp", "intra_dp_cp", "tp_dp_cp", "expt_dp", "intra_expt_dp", "intra_dist_opt"},
    "ep": {"dp", "dp_cp", "intra_dp_cp", "tp_dp_cp", "ep", "tp_ep", "tp_ep_pp", "intra_dist_opt"},
}
"""The groups that have both of two ranks, by layout. The others have the rank itself."""
SAME_RANKS = {"dp_cp_gtp_remat": "dp_cp", "expt_dp_gtp_remat": "expt_dp", "tp_ep_pp_with_egtp_remat": "tp_ep_pp"}
"""Groups of Megatron-Core 0.19 and those that they equal without its weight rematerialization (GTP)."""


def test_of_two_ranks_every_group_adds_up_its_own_members() -> None:
    for rank, sums in enumerate(run_distributed(_sums, 2)):
        for name, by_group in sums.items():
            is_shared = {group: SAME_RANKS.get(group, group) in BOTH[name] for group in by_group}
            assert by_group == {group: 11 if is_shared[group] else 10**rank for group in by_group}, name
            assert by_group.keys() >= BOTH[name] | {"tp", "pp", "dp", "cp", "ep", "expt_dp"}


def _sums() -> dict[str, dict[str, float]]:
    """What the ranks of each group add up to in each layout, where rank 0 brings 1 and rank 1 brings 10."""
    sums = {}
    for name, parallel in LAYOUTS.items():
        world = _start(parallel)
        sums[name] = {group: _sum(members) for group, members in _groups(world).items()}
        end_layout()
    return sums


def test_layouts_of_one_world_add_no_threads() -> None:
    for first, *later in run_distributed(_num_threads, 2):
        assert len(later) == 2 * len(LAYOUTS) - 1
        assert max(later) <= first, (first, later)


def _num_threads() -> list[int]:
    """After each layout, of which each is opened twice and used by something that never lets go of it."""
    counts, held = [], []
    for parallel in 2 * list(LAYOUTS.values()):
        world = _start(parallel)
        held.append(world)  # as Megatron-Core's caches do
        _sum(world.groups.dp)
        counts.append(_count_threads())
        end_layout()
    return counts


def test_a_group_made_beside_the_layout_is_another_one() -> None:
    """The checkpoint's thread uses it whenever it comes to it, with no regard to the steps'."""
    assert run_distributed(_sums_in_two_orders, 2) == [[11.0, 1100.0]] * 2


def _sums_in_two_orders() -> list[float]:
    """Rank 0 uses the layout's group first, and rank 1 the other one: as one group they would mix the numbers."""
    world = _start(LAYOUTS["dp"])
    value = torch.tensor([10.0**world.rank])
    uses = [(world.groups.dp, value), (distributed.new_group([0, 1]), 100 * value)]
    order = uses if world.rank == 0 else uses[::-1]
    for work in [distributed.all_reduce(value, group=group, async_op=True) for group, value in order]:
        work.wait()
    end_layout()
    return [float(value) for _, value in uses]


def test_a_world_that_stopped_lets_go_of_its_threads() -> None:
    during, after = [], []
    for _ in range(3):
        _start(LAYOUTS["dp"])
        during.append(_count_threads())
        stop_world()
        after.append(_count_threads())
    # Megatron-Core forgets all groups of a layout but one, which it holds until the next.
    assert len(set(after)) == len(set(during)) == 1
    assert after[0] < during[0]


def _start(parallel: ParallelConfig) -> World:
    return start_world(parallel, timeout_seconds=60, seed=1)


def _groups(world: World) -> dict[str, Any]:
    """Those that this layout has, by their names."""
    found = {field.name: getattr(world.groups, field.name, None) for field in dataclasses.fields(world.groups)}
    return {name: group for name, group in found.items() if isinstance(group, distributed.ProcessGroup)}


def _sum(group: distributed.ProcessGroup) -> float:
    value = torch.tensor([10.0 ** distributed.get_rank()])
    distributed.all_reduce(value, group=group)
    return float(value)


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))
