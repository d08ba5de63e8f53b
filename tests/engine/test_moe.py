"""Mixtures of experts: one layout of each kind trains as one process does, and tells how experts were loaded.

The certificate compares all layouts, for ten steps (conf/certify/standard.yaml). A token whose experts two layouts
choose differently would show far above these bounds; logits that near a tie are rare.
"""

from dataclasses import dataclass, replace

import pytest

from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    EP2,
    FP16,
    MEGATRON,
    MEGATRON_PLAIN,
    MIXED,
    PP2,
    PP2_VP2,
    SPARSE,
    TP2_SP,
    Case,
    Trained,
    check_same_training,
    check_same_weights,
    train_all,
)

TP2_EP2 = replace(TP2_SP, expert_tensor_parallel_size=1, expert_model_parallel_size=2)
ONE = {
    "sparse": Case(model=SPARSE, engine=MEGATRON),
    "deepspeed sparse": Case(model=SPARSE),
    "mixed": Case(model=MIXED, optimizer="clipped", engine=MEGATRON),
}
# Each beside the name of the same run in one process.
LAYOUTS = {
    "ep2": ("sparse", Case(model=SPARSE, parallel=EP2, engine=MEGATRON)),
    "ep2 gather plain": (
        "sparse",
        Case(model=SPARSE, parallel=replace(EP2, moe_token_dispatcher_type="allgather"), engine=MEGATRON_PLAIN),
    ),
    "tp2 ep2": ("mixed", Case(model=MIXED, parallel=TP2_EP2, optimizer="clipped", engine=MEGATRON)),
    "pp2 vp2": ("mixed", Case(model=MIXED, parallel=PP2_VP2, optimizer="clipped", engine=MEGATRON)),
    "deepspeed dp2": ("sparse", Case(model=SPARSE)),
}
# The last stage alone has experts, in its second layer; scaling losses must not make ranks wait for others.
LATE_EXPERTS = Case(model=replace(MIXED, moe_layer_freq=[0, 0, 0, 1]), parallel=PP2, engine=MEGATRON, precision=FP16)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all layouts."""

    trained: dict[str, Trained]
    late_experts: Trained


def run_two() -> Account:
    trained = train_all({name: case for name, (_, case) in LAYOUTS.items()} | {"late": LATE_EXPERTS})
    return Account(late_experts=trained.pop("late"), trained=trained)


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    return run_distributed(train_all, 1, ONE)[0]


@pytest.fixture(scope="module")
def two() -> list[Account]:
    return run_distributed(run_two, 2)


@pytest.fixture
def ranks(layout: str, two: list[Account]) -> list[Trained]:
    """What each rank saw of a layout."""
    return [account.trained[layout] for account in two]


@pytest.fixture
def expected(layout: str, alone: dict[str, Trained]) -> Trained:
    return alone[LAYOUTS[layout][0]]


def test_engines_train_alike_in_one_process(alone: dict[str, Trained]) -> None:
    assert alone["sparse"].losses[-1] < alone["sparse"].losses[0], "something was learned"
    check_same_training([alone["deepspeed sparse"]], alone["sparse"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_trains_as_one_process(ranks: list[Trained], expected: Trained) -> None:
    check_same_training(ranks, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_start_equal_and_copies_stay_equal(ranks: list[Trained], expected: Trained) -> None:
    check_same_weights(ranks, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_how_experts_were_loaded(layout: str, ranks: list[Trained], expected: Trained) -> None:
    layers = [1, 2, 3, 4] if LAYOUTS[layout][1].model == SPARSE else [2, 4]
    for step, (result, other) in enumerate(zip(ranks[0].results, expected.results, strict=True)):
        assert result.routing is not None and other.routing is not None
        assert [layer.layer for layer in result.routing] == layers
        for layer, same in zip(result.routing, other.routing, strict=True):
            assert layer.expert_load == same.expert_load, f"step {step}: no token went another way"
            assert layer.load_balancing_loss == pytest.approx(same.load_balancing_loss, rel=1e-6)
            assert layer.z_loss == (None if same.z_loss is None else pytest.approx(same.z_loss, rel=1e-6))


def test_loads_are_shares_of_choices(alone: dict[str, Trained]) -> None:
    for name, num_experts, top_k in (("sparse", 4, 2), ("mixed", 6, 3)):
        for result in alone[name].results:
            assert result.routing is not None
            for layer in result.routing:
                assert len(layer.expert_load) == num_experts
                assert sum(layer.expert_load) == pytest.approx(1)
                assert max(layer.expert_load) <= 1 / top_k, "a token goes to an expert once"
                assert 1 < layer.max_load_ratio <= num_experts / top_k
                # 1 where loads are equal; a batch of few tokens is near that.
                assert layer.load_balancing_loss is not None and 0.9 < layer.load_balancing_loss < 1.5


def test_a_stage_without_experts_does_not_wait_for_one_with_them(two: list[Account]) -> None:
    first, second = (account.late_experts for account in two)
    assert first.losses == second.losses
    assert first.losses[-1] < first.losses[0]
    assert not first.results[-1].is_skipped
