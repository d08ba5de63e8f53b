"""A loss or gradient of one rank that is not finite keeps updates from all weights, and leaves no other trace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    BF16,
    EP2,
    FP16,
    MEGATRON,
    MEGATRON_PLAIN,
    PP2,
    PP2_VP2,
    SPARSE,
    TP2_SP,
    ZERO_0,
    Case,
    open_engine,
    take_step,
    take_steps,
)
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.engine.base import Engine, StepResult

ZERO_2 = DeepSpeedEngineConfig(zero_stage=2, reduce_bucket_size=5000)
ZERO_3 = DeepSpeedEngineConfig(
    zero_stage=3, reduce_bucket_size=5000, param_persistence_threshold=0, prefetch_bucket_size=2000
)
TWO = {
    "dp2 zero0": Case(engine=ZERO_0),
    "dp2 zero2": Case(engine=ZERO_2),
    "dp2 zero3": Case(engine=ZERO_3),
    "dp2 zero3 offload": Case(engine=replace(ZERO_3, offload_optimizer="cpu")),
    "dp2 zero2 bf16": Case(engine=ZERO_2, precision=BF16),
    "dp2 zero3 bf16": Case(engine=ZERO_3, precision=BF16),
    "tp2 bf16": Case(parallel=TP2_SP, precision=BF16),
    "pp2 fp16": Case(parallel=PP2, precision=FP16),
    "megatron tp2 plain": Case(parallel=TP2_SP, engine=MEGATRON_PLAIN),
    "megatron dp2": Case(engine=MEGATRON),
    "megatron dp2 bf16": Case(engine=MEGATRON, precision=BF16),
    "megatron pp2 fp16": Case(parallel=PP2, engine=MEGATRON, precision=FP16),
    # No other rank has this expert, or a sum that it is part of.
    "megatron ep2": Case(model=SPARSE, parallel=EP2, engine=MEGATRON),
}
TWO_BAD_LOSSES = {
    "dp2": Case(),
    "megatron pp2 vp2": Case(parallel=PP2_VP2, engine=MEGATRON),
    "pp2 fp16": Case(parallel=PP2, precision=FP16),
}
# Rank 3 is in the pipeline of one half of the data: it must be heard by the other stage and by the other half.
FOUR = {"dp2 pp2": Case(parallel=PP2)}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What one rank saw of a step whose gradient was not finite on another rank."""

    result: StepResult
    is_untouched: bool
    """Weights, master weights, moments and the count of updates are what they were."""
    later_losses: list[float]
    undisturbed_losses: list[float]
    """Those of the same steps where no bad step came between."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    gradients: dict[str, Skipped]
    losses: dict[str, Skipped]


def run_two() -> Account:
    return run(TWO, TWO_BAD_LOSSES, bad_rank=1)


def run_four() -> Account:
    return run(FOUR, FOUR, bad_rank=3)


def run(gradients: dict[str, Case], losses: dict[str, Case], *, bad_rank: int) -> Account:
    return Account(
        gradients={
            name: skip_a_step(case, bad_rank=bad_rank, bad_weight="local_experts" if case.model is SPARSE else "norm")
            for name, case in gradients.items()
        },
        losses={name: skip_a_step(case, bad_rank=bad_rank, is_loss_bad=True) for name, case in losses.items()},
    )


def skip_a_step(case: Case, *, bad_rank: int, is_loss_bad: bool = False, bad_weight: str = "norm") -> Skipped:
    """Between good steps take one that is not finite on one rank; all ranks call this.

    Args:
        is_loss_bad: the loss is infinite, and its gradient would not be; otherwise the gradient of one parameter is.
            `bad_rank` has the last layers then.
        bad_weight: part of the name of that parameter.
    """
    with open_engine(case) as (engine, _, world):
        undisturbed = take_steps(engine, range(3), case=case, world=world)
    with open_engine(case) as (engine, chunks, world):
        take_step(engine, 0, case=case, world=world)
        before, num_updates = _state_of(engine, chunks), engine.num_updates
        parameter = next(parameter for name, parameter in chunks[0].named_parameters() if bad_weight in name)
        hook = None
        if world.rank == bad_rank:
            hook = (
                chunks[-1].register_forward_hook(lambda module, inputs, losses: losses + torch.inf)
                if is_loss_bad
                else parameter.register_hook(lambda grad: grad * torch.inf)
            )
        result = take_step(engine, 1, case=case, world=world)
        if hook is not None:
            hook.remove()
        after = _state_of(engine, chunks)
        is_untouched = engine.num_updates == num_updates and all(map(torch.equal, before, after))
        later = take_steps(engine, (1, 2), case=case, world=world)
    return Skipped(result=result, is_untouched=is_untouched, later_losses=later, undisturbed_losses=undisturbed[1:])


def _state_of(engine: Engine, chunks: Sequence) -> list[torch.Tensor]:
    """Copies of everything that an update changes."""
    weights = [parameter.detach().clone() for chunk in chunks for parameter in chunk.parameters()]
    states = [tensor.clone() for fragment in engine.optimizer_fragments() for tensor in fragment.states.values()]
    return weights + states


@pytest.fixture(scope="module")
def two() -> list[Account]:
    return run_distributed(run_two, 2, timeout_seconds=400)


@pytest.fixture(scope="module")
def four() -> list[Account]:
    return run_distributed(run_four, 4, timeout_seconds=400)


def check(ranks: list[Skipped], *, is_loss_finite: bool = True) -> None:
    for rank in ranks:
        assert rank.result.is_skipped
        assert math.isfinite(rank.result.loss) == is_loss_finite
        assert not math.isfinite(rank.result.grad_norm)
        assert rank.is_untouched
        assert rank.later_losses == rank.undisturbed_losses


@pytest.mark.parametrize("name", TWO)
def test_two_processes_skip_together(name: str, two: list[Account]) -> None:
    check([account.gradients[name] for account in two])


@pytest.mark.parametrize("name", FOUR)
def test_four_processes_skip_together(name: str, four: list[Account]) -> None:
    check([account.gradients[name] for account in four])


@pytest.mark.parametrize("name", TWO_BAD_LOSSES)
def test_a_loss_that_is_not_finite_keeps_updates_away_though_its_gradient_is(name: str, two: list[Account]) -> None:
    check([account.losses[name] for account in two], is_loss_finite=False)


@pytest.mark.parametrize("name", FOUR)
def test_such_a_loss_on_four_processes(name: str, four: list[Account]) -> None:
    check([account.losses[name] for account in four], is_loss_finite=False)
