"""A global batch whose loss mask leaves no token: no update, no error, and the next step is what it would have been."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.engine.runs import FP16, MEGATRON, PP2, Case, micro_batches, open_engine, rate_of, take_step, take_steps
from trainer.engine.base import StepResult

CASES = {
    "dp2": Case(),
    "megatron dp2": Case(engine=MEGATRON),
    "megatron pp2 fp16": Case(parallel=PP2, engine=MEGATRON, precision=FP16),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one rank saw."""

    empty: StepResult
    evaluated: tuple[float, float]
    num_updates: int
    scales: list[float | None]
    later_losses: list[float]
    undisturbed_losses: list[float]


def run_all() -> dict[str, Seen]:
    return {name: run(case) for name, case in CASES.items()}


def run(case: Case) -> Seen:
    with open_engine(case) as (engine, _, world):
        undisturbed = take_steps(engine, range(3), case=case, world=world)
    with open_engine(case) as (engine, _, world):
        first = take_step(engine, 0, case=case, world=world)
        batches = micro_batches(1, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size)
        masked = [replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)) for batch in batches]
        empty = engine.train_step(masked, learning_rate=rate_of(1))
        evaluated, num_updates = engine.evaluate(masked), engine.num_updates
        second = take_step(engine, 1, case=case, world=world)
        return Seen(
            empty=empty,
            evaluated=evaluated,
            num_updates=num_updates,
            scales=[first.loss_scale, empty.loss_scale, second.loss_scale],
            later_losses=[second.loss, take_step(engine, 2, case=case, world=world).loss],
            undisturbed_losses=undisturbed[1:],
        )


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Seen]]:
    return run_distributed(run_all, 2)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_learned_and_nothing_is_wrong(name: str, ranks: list[dict[str, Seen]]) -> None:
    for rank in ranks:
        seen = rank[name]
        assert seen.empty.is_skipped and not seen.empty.has_targets
        assert math.isnan(seen.empty.loss) and seen.empty.grad_norm == 0
        assert seen.evaluated == (0.0, 0.0)
        assert seen.num_updates == 1
        assert len(set(seen.scales)) == 1, "it is not the loss scale's fault"
        assert seen.later_losses == seen.undisturbed_losses, "bit for bit"
