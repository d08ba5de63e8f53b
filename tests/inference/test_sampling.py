"""Sampling against what the definitions say."""

import argparse
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.options import SAMPLING_DEFAULTS, choose_sampling
from trainer.inference.sampling import NUM_CANDIDATES, Sampler, SamplingConfig, sample_rows

LOGITS = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.3]).log_softmax(0)


def draw(count: int, **config: float) -> list[int]:
    sampler = Sampler(SamplingConfig(**config), seed=1)  # type: ignore[arg-type]
    return [sampler.sample(LOGITS) for _ in range(count)]


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
    first, second = (Sampler(config, seed=seed).sample(LOGITS) for _ in range(2))
    assert first == second
    assert 0 <= first < 5


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-37, 1e-20])
def test_a_temperature_near_0_takes_the_likeliest(temperature: float) -> None:
    assert set(draw(5, temperature=temperature)) == {1}


def test_extreme_settings_are_limits() -> None:
    assert set(draw(20, top_p=1e-46)) == {1}  # 0 in fp32
    assert len(set(draw(500, top_k=10**30))) == 5
    assert len(set(draw(200, temperature=1e300))) == 5


def test_min_p_keeps_what_is_likely_enough() -> None:
    # Relative to the most likely token: 0.15, 1, 0.05, 0.61, 0.18.
    assert set(draw(2_000, min_p=0.5)) == {1, 3}
    assert set(draw(2_000, min_p=0.16)) == {1, 3, 4}
    assert set(draw(50, min_p=1.0)) == {1}


def test_filters_apply_one_after_another() -> None:
    # Of the two most likely tokens the first has 0.62: enough for 0.6.
    assert set(draw(500, top_k=2, top_p=0.6)) == {1}
    assert set(draw(500, top_k=2, top_p=0.63)) == {1, 3}


def test_a_nucleus_of_many_tokens_is_found() -> None:
    logits = torch.zeros(3 * NUM_CANDIDATES)
    sampler = Sampler(SamplingConfig(top_p=0.9), seed=1)
    seen = {sampler.sample(logits) for _ in range(20_000)}
    # Each of the 2765 tokens that reach 0.9 is missed with probability exp(-20000 / 2765) = 7e-4.
    assert len(seen) == pytest.approx(0.9 * len(logits), abs=12)


def test_a_token_without_probability_is_never_taken() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    sampler = Sampler(SamplingConfig(), seed=2)
    assert {sampler.sample(logits) for _ in range(2_000)} == {1, 3}


def test_repetition_penalty_counts_the_prompt_and_works_on_both_signs() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    greedy = SamplingConfig(temperature=0.0, repetition_penalty=1.2)
    assert Sampler(greedy, prompt=[0]).sample(logits) == 1
    both = Sampler(greedy, prompt=[0, 1])
    assert both.sample(logits) == 0  # 1.67 against 1.58
    negative = torch.tensor([-1.0, -1.1])
    assert Sampler(greedy, prompt=[0]).sample(negative) == 1  # -1.2 against -1.1


def test_presence_and_frequency_penalties_count_what_was_generated() -> None:
    logits = torch.tensor([2.0, 1.5, 0.0])
    assert [Sampler(SamplingConfig(temperature=0.0, presence_penalty=1.0), prompt=[0]).sample(logits)] == [0]
    sampler = Sampler(SamplingConfig(temperature=0.0, presence_penalty=1.0))
    assert [sampler.sample(logits) for _ in range(3)] == [0, 1, 0]  # 1.0 against 1.5, then 1.0 against 0.5
    often = Sampler(SamplingConfig(temperature=0.0, frequency_penalty=0.3))
    assert [often.sample(logits) for _ in range(5)] == [0, 0, 1, 0, 1]


def test_penalties_leave_the_logits_alone() -> None:
    logits = LOGITS.clone()
    Sampler(SamplingConfig(repetition_penalty=2.0, temperature=0.0), prompt=[1]).sample(logits)
    assert torch.equal(logits, LOGITS)


def test_rows_are_sampled_as_if_alone() -> None:
    table = torch.stack([LOGITS, LOGITS.flip(0), LOGITS])
    configs = [SamplingConfig(temperature=0.0), SamplingConfig(temperature=0.0), SamplingConfig(top_k=3)]
    together = sample_rows(table, [Sampler(config, seed=4) for config in configs])
    alone = [Sampler(config, seed=4).sample(row) for config, row in zip(configs, table, strict=True)]
    assert together == alone


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40),
    penalty=st.floats(1.0, 2.0),
    top_k=st.integers(0, 10),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 0.5),
    temperature=st.floats(0.2, 2.0),
)
def test_kept_tokens_are_those_of_transformers(
    logits: list[float], penalty: float, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    from transformers import (  # noqa: PLC0415 - as heavy as all other tests of this file
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    prompt = [0, 1]
    warpers = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    warpers += [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)]
    scores = warpers(torch.tensor([prompt]), torch.tensor([logits]))[0]
    config = SamplingConfig(repetition_penalty=penalty, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    for seed in range(5):
        token = Sampler(config, prompt=prompt, seed=seed).sample(torch.tensor(logits))
        value = scores[token]
        # Rounding may decide otherwise about a token on the edge of a filter: one that is as likely as the least kept.
        assert value.isfinite() or torch.tensor(logits)[token] >= torch.tensor(logits)[scores.isfinite()].min() - 1e-3


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ({}, {}, (0.8, 0, 0.95)),
        ({"top_k": 50}, {}, (1.0, 50, 1.0)),
        ({"temperature": 0.6, "top_p": 0.9}, {"top_p": 0.5}, (0.6, 0, 0.5)),
        ({"temperature": 0.6, "do_sample": False}, {}, (0.0, 0, 1.0)),
        ({"do_sample": False}, {"temperature": 0.7}, (0.7, 0, 1.0)),
        ({"do_sample": True}, {}, (0.8, 0, 0.95)),
    ],
)
def test_options_come_before_the_model_and_the_model_before_the_defaults(
    config: dict[str, Any], options: dict[str, float], expected: tuple[float, int, float]
) -> None:
    arguments = argparse.Namespace(**{**dict.fromkeys(SAMPLING_DEFAULTS), **options})
    found = choose_sampling(arguments, generation_config=config)
    assert (found["temperature"], found["top_k"], found["top_p"]) == expected
