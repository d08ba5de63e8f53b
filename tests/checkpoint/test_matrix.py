"""The matrix: saved under one layout and engine, loaded under another, and trained on as if nothing had happened.

Each layout takes what it has saved itself and what one other has saved, all around. That a checkpoint holds the same
bytes whoever saves it, and that every layout finds its parts, tests/checkpoint/test_layouts.py shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.checkpoint.fragments import layout_in, state_of
from tests.checkpoint.lineage import FIRST_OF_SECOND, GLOBAL_BATCH_SIZE, PARTS, Seen, train_over_layouts, write_shards
from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    EP2,
    LLAMA,
    MEGATRON,
    MEGATRON_PLAIN,
    PP2,
    PP2_VP2,
    TP2_SP,
    Case,
    largest_difference,
    open_engine,
    take_steps,
)
from trainer.checkpoint.directory import list_checkpoints
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig

STEPS, STEPS_ON = range(2), range(2, 4)
DENSE = replace(LLAMA, num_query_groups=4)
SPARSE = replace(
    LLAMA,
    num_moe_experts=4,
    moe_ffn_hidden_size=24,
    # It judges each sequence by itself: another micro batch size is another order of the same sums.
    moe_router_load_balancing_type="seq_aux_loss",
    moe_aux_loss_coeff=0.1,
    moe_z_loss_coeff=0.01,
)
TP2_EP2 = replace(TP2_SP, expert_model_parallel_size=2, expert_tensor_parallel_size=1)
# Number of processes and case, in the order of the ring; micro batches are as large as each layout takes them.
DENSE_RING = {
    "tp2pp2": (4, Case(parallel=replace(TP2_SP, pipeline_model_parallel_size=2), micro_batch_size=4)),
    "dp2pp2vp2 megatron": (4, Case(parallel=PP2_VP2, engine=MEGATRON)),
    "dp4 zero1": (4, Case()),
    "cp2tp2 megatron": (
        4,
        Case(parallel=replace(TP2_SP, context_parallel_size=2), engine=MEGATRON, micro_batch_size=8),
    ),
    "dp2 zero3": (2, Case(engine=DeepSpeedEngineConfig(zero_stage=3), micro_batch_size=4)),
}
SPARSE_RING = {
    "tp2ep2 megatron": (2, Case(parallel=TP2_EP2, engine=MEGATRON, micro_batch_size=4)),
    "pp2vp2ep2 megatron": (4, Case(parallel=replace(PP2_VP2, expert_model_parallel_size=2), engine=MEGATRON)),
    "dp2 zero1 whole experts": (2, Case()),
    "ep2 megatron": (2, Case(parallel=EP2, engine=MEGATRON, micro_batch_size=4)),
}
# More, for the whole matrix.
DENSE_MORE = {
    "tp4": (4, Case(parallel=replace(TP2_SP, tensor_model_parallel_size=4), micro_batch_size=8)),
    "pp4 megatron": (4, Case(parallel=replace(PP2, pipeline_model_parallel_size=4), engine=MEGATRON)),
}
SPARSE_MORE = {
    "tp2dp2ep2 megatron": (4, Case(parallel=TP2_EP2, engine=MEGATRON, micro_batch_size=4)),
    "dp2 megatron plain": (2, Case(engine=MEGATRON_PLAIN)),
    "pp2 megatron": (2, Case(parallel=PP2, engine=MEGATRON)),
    "dp4 zero1 whole experts": (4, Case()),
}

Cases = Mapping[str, tuple[int, Case]]
Pair = tuple[str, str]
"""Names of the layouts that saved and that loaded."""


@dataclass(frozen=True, kw_only=True)
class _Account:
    """Losses of the steps after the saved one."""

    uninterrupted: dict[str, list[float]]
    """By the layout that saved."""
    resumed: dict[Pair, list[float]]


def _around(cases: Cases) -> list[Pair]:
    names = list(cases)
    return [pair for number, name in enumerate(names) for pair in ((name, name), (names[number - 1], name))]


def _all_pairs(cases: Cases) -> list[Pair]:
    return [(saved, loading) for saved in cases for loading in cases]


def _train_and_save(directory: Path, cases: Mapping[str, Case]) -> dict[str, list[float]]:
    """Save on the way, which disturbs nothing."""
    losses = {}
    for name, case in cases.items():
        with open_engine(case) as (engine, _, world):
            take_steps(engine, STEPS, case=case, world=world)
            state = state_of(len(STEPS), parallel=case.parallel, world_size=world.world_size, model=case.model)
            save_checkpoint(directory / name, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
            losses[name] = take_steps(engine, STEPS_ON, case=case, world=world)
    return losses


def _load(directory: Path, cases: Mapping[str, Case], pairs: Sequence[Pair]) -> dict[Pair, list[float]]:
    """One engine takes one state after the other, as it does when a run rolls back."""
    losses = {}
    for name, case in cases.items():
        with open_engine(case) as (engine, _, world):
            layout = layout_in(case.parallel, world_size=world.world_size)
            for saved in [saved for saved, loading in pairs if loading == name]:
                (path,) = list_checkpoints(directory / saved)
                state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
                engine.restore(num_updates=state.num_updates)
                losses[saved, name] = take_steps(engine, STEPS_ON, case=case, world=world)
    return losses


def _run(directory: Path, dense: Cases, sparse: Cases, pairs: Sequence[Pair]) -> _Account:
    """Save under all, then load under all; the worlds of each size start once for either."""
    cases = {name: (size, replace(case, model=DENSE)) for name, (size, case) in dense.items()}
    cases |= {name: (size, replace(case, model=SPARSE)) for name, (size, case) in sparse.items()}
    of_size = {size: {name: case for name, (own, case) in cases.items() if own == size} for size in (2, 4)}
    uninterrupted: dict[str, list[float]] = {}
    for size, own in of_size.items():
        uninterrupted |= run_distributed(_train_and_save, size, directory, own, timeout_seconds=600)[0]
    resumed: dict[Pair, list[float]] = {}
    for size, own in of_size.items():
        resumed |= run_distributed(_load, size, directory, own, pairs, timeout_seconds=600)[0]
    assert resumed.keys() == set(pairs)
    return _Account(uninterrupted=uninterrupted, resumed=resumed)


def _check(account: _Account) -> None:
    """Each pair within 1e-6: fp32 sums are taken in another order under another layout; nothing else may differ."""
    differences = {
        (saved, loading): largest_difference(losses, account.uninterrupted[saved])
        for (saved, loading), losses in account.resumed.items()
    }
    print(f"largest relative difference of {len(differences)} pairs: {max(differences.values()):.1e}")
    assert {pair: difference for pair, difference in differences.items() if difference > 1e-6} == {}
    changed = [saved for (saved, loading), difference in differences.items() if saved == loading and difference != 0]
    assert changed == [], "the same layout goes on bit for bit"
    assert all(losses[-1] != losses[0] for losses in account.uninterrupted.values())


def test_losses_after_a_resume_equal_the_uninterrupted_run(tmp_path: Path) -> None:
    _check(_run(tmp_path, DENSE_RING, SPARSE_RING, _around(DENSE_RING) + _around(SPARSE_RING)))


@pytest.mark.long
def test_losses_after_a_resume_match_for_every_pair_of_layouts(tmp_path: Path) -> None:
    dense, sparse = {**DENSE_RING, **DENSE_MORE}, {**SPARSE_RING, **SPARSE_MORE}
    _check(_run(tmp_path, dense, sparse, _all_pairs(dense) + _all_pairs(sparse)))


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """Of one run over several layouts."""
    directory = tmp_path_factory.mktemp("lineage")
    shards = write_shards(directory)
    return run_distributed(train_over_layouts, 4, directory / "outputs", shards, timeout_seconds=300)[0]


def test_every_sample_is_seen_once_and_in_its_order_over_all_layouts(lineage: list[Seen]) -> None:
    """Data, tensor and pipeline parallelism, engine, micro batch and mixture change at the resumes."""
    num_steps = sum(part[0] for part in PARTS)
    assert [seen.sample for seen in lineage] == list(range(num_steps * GLOBAL_BATCH_SIZE))
    steps = [seen.step for seen in lineage]
    assert steps == [1 + sample // GLOBAL_BATCH_SIZE for sample in range(num_steps * GLOBAL_BATCH_SIZE)]
    windows = [seen.first_token for seen in lineage]
    assert len(set(windows)) == len(windows), "no window twice, over a change of the mixture too"


def test_a_changed_mixture_takes_effect_at_the_resumed_sample(lineage: list[Seen]) -> None:
    changed_at = sum(part[0] for part in PARTS if part[1] == 1)
    second = [seen.first_token >= FIRST_OF_SECOND for seen in lineage]
    before, after = second[: changed_at * GLOBAL_BATCH_SIZE], second[changed_at * GLOBAL_BATCH_SIZE :]
    assert sum(before) / len(before) == 1 / 2
    assert sum(after) / len(after) == 3 / 4
