"""Every layout trains as one process does: same weights, same data, ten steps, fp32.

Two layouts add the same numbers in another order. Measured over all of them: 9e-8 relative of the loss and 5e-7 of the
gradient norm; the bounds leave a factor of 10 and 20.
"""

import pytest
import torch

from tests.engine.cases import FOUR, TWO, Account
from tests.engine.steps import OPTIMIZERS, Trained, assemble, largest_difference

LOSS_TOLERANCE = 1e-6
GRAD_NORM_TOLERANCE = 1e-5
LAYOUTS = {**TWO, **FOUR}


def losses_of(trained: Trained) -> list[float]:
    return [result.loss for result in trained.results]


def grad_norms_of(trained: Trained) -> list[float]:
    return [result.grad_norm for result in trained.results]


def test_one_process_trains_as_a_loop_written_by_hand(one: Account) -> None:
    assert one.by_hand is not None
    losses, grad_norms = one.by_hand
    engine = one.trained["llama clipped"]
    assert largest_difference(losses_of(engine), losses) <= LOSS_TOLERANCE
    assert largest_difference(grad_norms_of(engine), grad_norms) <= GRAD_NORM_TOLERANCE


def test_the_runs_would_show_a_mistake(one: Account) -> None:
    for name in ("llama", "gpt2"):
        usual, clipped = one.trained[name], one.trained[f"{name} clipped"]
        assert losses_of(usual)[-1] < 0.9 * losses_of(usual)[0], "something was learned"
        assert min(grad_norms_of(clipped)) > 5 * OPTIMIZERS["clipped"].clip_grad, "every step was clipped"
        assert largest_difference(losses_of(usual), losses_of(clipped)) > 1e-3
    fitting = [trained for name, trained in one.trained.items() if "overflowing" not in name]
    assert not any(result.is_skipped for trained in fitting for result in trained.results)


@pytest.mark.parametrize(
    ("name", "other"), [("megatron llama clipped", "llama clipped"), ("megatron plain gpt2", "gpt2")]
)
def test_engines_train_alike_in_one_process(name: str, other: str, one: Account) -> None:
    trained, expected = one.trained[name], one.trained[other]
    assert largest_difference(losses_of(trained), losses_of(expected)) <= LOSS_TOLERANCE
    assert largest_difference(grad_norms_of(trained), grad_norms_of(expected)) <= GRAD_NORM_TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_trains_as_one_process(layout: str, expected: Trained, ranks: list[Trained]) -> None:
    assert all(rank.results == ranks[0].results for rank in ranks), "every rank tells the same"
    loss = largest_difference(losses_of(ranks[0]), losses_of(expected))
    grad_norm = largest_difference(grad_norms_of(ranks[0]), grad_norms_of(expected))
    print(f"{layout}: loss {loss:.1e}, grad norm {grad_norm:.1e}")
    assert loss <= LOSS_TOLERANCE
    assert grad_norm <= GRAD_NORM_TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_start_equal_and_copies_stay_equal(expected: Trained, ranks: list[Trained]) -> None:
    initial, expected_initial = assemble([rank.initial for rank in ranks]), assemble([expected.initial])
    assert initial.keys() == expected_initial.keys()
    assert all(torch.equal(initial[key], expected_initial[key]) for key in initial), "bit for bit"

    final, expected_final = assemble([rank.final for rank in ranks]), assemble([expected.final])
    for key, tensor in final.items():
        assert not torch.equal(tensor, initial[key]), f"{key} was trained"
        # Adam makes a step of its own out of rounding where a gradient is near zero; such elements are few.
        way = (expected_final[key] - expected_initial[key]).norm()
        assert (tensor - expected_final[key]).norm() < 1e-3 * way, key
