"""Rounding errors that are made up are as large as those that a format makes."""

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402

from trainer.certificate.noise import _perturbed  # noqa: E402


def errors(like: torch.Tensor) -> torch.Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_randomly_to_a_neighboring_number(dtype: torch.dtype) -> None:
    value = torch.full((4096,), 1.25, dtype=dtype)
    perturbed = _perturbed(value, errors, torch.finfo(dtype).eps / 2)
    # The spacing at 1.25 is that at 1, of which 1.25 * eps / 2 is more than half.
    spacing = torch.finfo(dtype).eps
    assert set(perturbed.float().tolist()) == {1.25 - spacing, 1.25, 1.25 + spacing}


def test_spacing_does_not_fall_below_the_smallest_normal_number() -> None:
    info = torch.finfo(torch.float16)
    smallest = info.smallest_normal * info.eps
    value = torch.full((4096,), 5 * smallest, dtype=torch.float16)
    perturbed = _perturbed(value, errors, info.eps)
    assert {round(v / smallest) for v in perturbed.float().tolist()} == {4, 5, 6}
    # Relative to the value, errors would be far below the spacing, and vanish.
    relative = (value.float() * (1 + info.eps * errors(value))).to(torch.float16)
    assert torch.equal(relative, value)


def test_zero_stays_zero() -> None:
    """Masked gradients have no rounding errors."""
    value = torch.zeros(4096, dtype=torch.float16)
    assert not _perturbed(value, errors, torch.finfo(torch.float16).eps / 2).any()
