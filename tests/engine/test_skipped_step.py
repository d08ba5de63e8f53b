"""A loss or gradient of one rank that is not finite keeps updates from all weights, and leaves no other trace."""

import math

import pytest

from tests.engine.cases import Account
from tests.engine.steps import Skipped


def check(ranks: list[Skipped], *, is_loss_finite: bool = True) -> None:
    for rank in ranks:
        assert rank.result.is_skipped
        assert math.isfinite(rank.result.loss) == is_loss_finite
        assert not math.isfinite(rank.result.grad_norm)
        assert rank.is_untouched
        assert rank.later_losses == rank.undisturbed_losses


@pytest.mark.parametrize("name", ["tp2", "dp2 zero0", "megatron tp2 plain", "megatron dp2", "megatron ep2"])
def test_two_processes_skip_together(name: str, two: list[Account]) -> None:
    check([account.skipped[name] for account in two])


@pytest.mark.parametrize("name", ["dp2 pp2", "bf16", "megatron bf16", "fp16", "megatron fp16"])
def test_four_processes_skip_together(name: str, four: list[Account]) -> None:
    check([account.skipped[name] for account in four])


@pytest.mark.parametrize("name", ["loss dp2", "loss megatron pp2 vp2"])
def test_a_loss_that_is_not_finite_keeps_updates_away_though_its_gradient_is(name: str, two: list[Account]) -> None:
    check([account.skipped[name] for account in two], is_loss_finite=False)


@pytest.mark.parametrize("name", ["loss dp2 pp2", "loss fp16"])
def test_such_a_loss_on_four_processes(name: str, four: list[Account]) -> None:
    check([account.skipped[name] for account in four], is_loss_finite=False)
