"""The matrix: saved under each layout and engine, loaded under each other, and trained on as if nothing had happened.

A world of four processes and one of two run at the same time and load what either has saved; each world starts once.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import distributed

from tests.checkpoint.fragments import layout_in, state_of
from tests.checkpoint.lineage import FIRST_OF_SECOND, GLOBAL_BATCH_SIZE, PARTS, Seen, train_over_layouts, write_shards
from tests.distributed.harness import run_distributed
from tests.engine.steps import LLAMA, Case, largest_difference, open_engine, take_step
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.checkpoint.store import list_checkpoints
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.parallel import ParallelConfig

SAVED_STEP, NUM_STEPS_ON = 3, 5
DENSE = replace(LLAMA, num_layers=8, num_query_groups=4)
SPARSE = replace(
    LLAMA,
    num_moe_experts=4,
    moe_ffn_hidden_size=24,
    # It judges each sequence by itself: another micro batch size is another order of the same sums.
    moe_router_load_balancing_type="seq_aux_loss",
    moe_aux_loss_coeff=0.1,
    moe_z_loss_coeff=0.01,
)
MEGATRON = MegatronEngineConfig()
TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
EP2 = ParallelConfig(expert_model_parallel_size=2)

# Micro batches are as large as each layout takes them.
FOUR = {
    "tp2pp2 deepspeed": Case(parallel=replace(TP2, pipeline_model_parallel_size=2), micro_batch_size=4),
    "dp2pp2 megatron": Case(parallel=PP2, engine=MEGATRON),
    "tp4": Case(parallel=replace(TP2, tensor_model_parallel_size=4), micro_batch_size=8),
    "pp4vp2": Case(
        parallel=replace(PP2, pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2), engine=MEGATRON
    ),
    "dp4 zero1": Case(engine=DeepSpeedEngineConfig(zero_stage=1)),
    "cp2tp2": Case(parallel=replace(TP2, context_parallel_size=2), engine=MEGATRON, micro_batch_size=8),
}
TWO = {"dp2 zero3": Case(engine=DeepSpeedEngineConfig(zero_stage=3), micro_batch_size=4)}
FOUR_SPARSE = {
    "tp2ep2 megatron": Case(
        parallel=replace(TP2, expert_model_parallel_size=2, expert_tensor_parallel_size=1),
        engine=MEGATRON,
        micro_batch_size=4,
    ),
    "pp2vp2ep2 megatron": Case(
        parallel=replace(EP2, pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2), engine=MEGATRON
    ),
    "dp4 zero1 whole experts": Case(engine=DeepSpeedEngineConfig(zero_stage=1)),
}
TWO_SPARSE = {"ep2": Case(parallel=EP2, engine=MEGATRON, micro_batch_size=4)}
DENSE_NAMES, SPARSE_NAMES = [*FOUR, *TWO], [*FOUR_SPARSE, *TWO_SPARSE]


@dataclass(frozen=True, kw_only=True)
class _Account:
    """Losses of the five steps after the saved one."""

    uninterrupted: dict[str, list[float]]
    """By the layout that saved."""
    resumed: dict[tuple[str, str], list[float]]
    """By the layouts that saved and that loaded."""
    lineage: list[Seen]
    """Of one run over several layouts."""


def _with(model, cases: Mapping[str, Case]) -> dict[str, Case]:
    return {name: replace(case, model=model) for name, case in cases.items()}


def _train(engine, case: Case, world, *, first: int, num_steps: int) -> list[float]:
    return [take_step(engine, step, case=case, world=world).loss for step in range(first, first + num_steps)]


def _train_and_save(directory: Path, name: str, case: Case) -> list[float]:
    """Save on the way, which disturbs nothing."""
    with open_engine(case) as (engine, _, world):
        _train(engine, case, world, first=0, num_steps=SAVED_STEP)
        state = state_of(SAVED_STEP, parallel=case.parallel, world_size=world.world_size, model=case.model)
        save_checkpoint(directory / name, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
        return _train(engine, case, world, first=SAVED_STEP, num_steps=NUM_STEPS_ON)


def _load_each(directory: Path, saved: Sequence[str], loading: str, case: Case) -> dict[tuple[str, str], list[float]]:
    """One engine takes one state after the other, as it does when a run rolls back."""
    losses = {}
    with open_engine(case) as (engine, _, world):
        layout = layout_in(case.parallel, world_size=world.world_size)
        for name in saved:
            (path,) = list_checkpoints(directory / name)
            state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
            engine.restore(num_updates=state.num_updates)
            losses[name, loading] = _train(engine, case, world, first=SAVED_STEP, num_steps=NUM_STEPS_ON)
    return losses


def _run_four(directory: Path, shards: list[Path]) -> _Account:
    account = _run(directory, FOUR, FOUR_SPARSE)
    return replace(account, lineage=train_over_layouts(directory / "outputs", shards))


def _run(directory: Path, dense: Mapping[str, Case], sparse: Mapping[str, Case]) -> _Account:
    families = [(DENSE_NAMES, _with(DENSE, dense)), (SPARSE_NAMES, _with(SPARSE, sparse))]
    uninterrupted = {
        name: _train_and_save(directory, name, case) for _, cases in families for name, case in cases.items()
    }
    distributed.barrier()
    for name in [*DENSE_NAMES, *SPARSE_NAMES]:
        _wait_for(directory / name)
    resumed = {}
    for names, cases in families:
        for name, case in cases.items():
            resumed |= _load_each(directory, names, name, case)
    return _Account(uninterrupted=uninterrupted, resumed=resumed, lineage=[])


def _wait_for(run: Path) -> None:
    """The other world is as fast as this one, more or less."""
    deadline = time.monotonic() + 300
    while not list_checkpoints(run):
        assert time.monotonic() < deadline, f"{run} has no checkpoint"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> _Account:
    directory = tmp_path_factory.mktemp("matrix")
    with ThreadPoolExecutor() as pool:
        four = pool.submit(run_distributed, _run_four, 4, directory, write_shards(directory), timeout_seconds=600)
        two = pool.submit(run_distributed, _run, 2, directory, TWO, TWO_SPARSE, timeout_seconds=600)
        first, second = four.result()[0], two.result()[0]
    return _Account(
        uninterrupted=first.uninterrupted | second.uninterrupted,
        resumed=first.resumed | second.resumed,
        lineage=first.lineage,
    )


@pytest.mark.parametrize("names", [DENSE_NAMES, SPARSE_NAMES], ids=["dense", "experts"])
def test_losses_go_on_as_those_of_the_uninterrupted_run(names: list[str], account: _Account) -> None:
    """Each pair within 1e-6: fp32 sums are taken in another order under another layout; nothing else may differ."""
    pairs = [(saved, loading) for saved in names for loading in names]
    differences = {
        (saved, loading): largest_difference(account.resumed[saved, loading], account.uninterrupted[saved])
        for saved, loading in pairs
    }
    print(f"largest relative difference of {len(pairs)} pairs: {max(differences.values()):.1e}")
    assert {pair: difference for pair, difference in differences.items() if difference > 1e-6} == {}
    assert [name for name in names if differences[name, name] != 0] == [], "the same layout goes on bit for bit"
    assert all(losses[-1] != losses[0] for losses in account.uninterrupted.values())


def test_every_sample_is_seen_once_and_in_its_order_over_all_layouts(account: _Account) -> None:
    """Data, tensor and pipeline parallelism, engine, micro batch and mixture change at the resumes."""
    num_steps = sum(part[0] for part in PARTS)
    assert [seen.sample for seen in account.lineage] == list(range(num_steps * GLOBAL_BATCH_SIZE))
    steps = [seen.step for seen in account.lineage]
    assert steps == [1 + sample // GLOBAL_BATCH_SIZE for sample in range(num_steps * GLOBAL_BATCH_SIZE)]
    windows = [seen.first_token for seen in account.lineage]
    assert len(set(windows)) == len(windows), "no window twice, over a change of the mixture too"


def test_a_change_of_the_mixture_holds_from_the_resumed_sample_on(account: _Account) -> None:
    changed_at = sum(part[0] for part in PARTS if part[1] == 1)
    second = [seen.first_token >= FIRST_OF_SECOND for seen in account.lineage]
    before, after = second[: changed_at * GLOBAL_BATCH_SIZE], second[changed_at * GLOBAL_BATCH_SIZE :]
    assert sum(before) / len(before) == 1 / 2
    assert sum(after) / len(after) == 3 / 4
