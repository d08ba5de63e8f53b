"""Sampling against what the definitions say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.generation import SamplingConfig, sample

LOGITS = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.3]).log_softmax(0)


def draw(count: int, **config: float) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return [sample(LOGITS, config=SamplingConfig(**config), generator=generator) for _ in range(count)]  # type: ignore[arg-type]


def test_temperature_0_takes_the_likeliest() -> None:
    assert set(draw(5, temperature=0.0)) == {1}


def test_frequencies_are_the_probabilities() -> None:
    tokens = torch.tensor(draw(20_000))
    frequencies = torch.bincount(tokens, minlength=5) / len(tokens)
    # Three standard deviations of the largest binomial share are 0.011.
    assert torch.allclose(frequencies, LOGITS.exp(), atol=0.011)


def test_temperature_sharpens() -> None:
    tokens = torch.tensor(draw(20_000, temperature=0.5))
    frequencies = torch.bincount(tokens, minlength=5) / len(tokens)
    assert torch.allclose(frequencies, (LOGITS / 0.5).softmax(0), atol=0.011)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(draw(2_000, top_k=2)) == {1, 3}
    assert set(draw(20, top_k=1)) == {1}


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, {1}), (0.6, {1, 3}), (0.85, {1, 3, 4}), (1.0, {0, 1, 2, 3, 4})])
def test_top_p_keeps_the_fewest_that_reach_p(top_p: float, kept: set[int]) -> None:
    probabilities = LOGITS.exp().sort(descending=True).values.cumsum(0)
    assert int((probabilities < top_p).sum()) + 1 >= len(kept)
    assert set(draw(5_000, top_p=top_p)) == kept


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.1, 5.0), top_k=st.integers(0, 8), top_p=st.floats(0.01, 1.0))
def test_equal_seeds_give_equal_tokens(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    first, second = (sample(LOGITS, config=config, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first == second
    assert 0 <= first < 5


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-37, 1e-20])
def test_a_temperature_near_0_takes_the_likeliest(temperature: float) -> None:
    assert set(draw(5, temperature=temperature)) == {1}


def test_extreme_settings_are_limits() -> None:
    assert set(draw(20, top_p=1e-46)) == {1}  # 0 in fp32
    assert draw(50, top_k=10**30) == draw(50)
    assert len(set(draw(200, temperature=1e300))) == 5


def test_equal_draws_as_before_for_usual_temperatures() -> None:
    scores, tokens = (LOGITS / 0.7).sort(descending=True, stable=True)
    generator = torch.Generator().manual_seed(1)
    probabilities = scores.softmax(0)
    expected = [int(tokens[torch.multinomial(probabilities, 1, generator=generator)]) for _ in range(50)]
    assert draw(50, temperature=0.7) == expected
