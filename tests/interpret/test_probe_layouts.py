"""A probe is the same under every layout."""

import dataclasses

import pytest
import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from tests.distributed.harness import run_distributed
from tests.inference.models import CAPPED, EXPERTS, GPT2, LATENT, LLAMA, build
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.interpret.options import ProbeOptions
from trainer.interpret.probe import Probe, probe

TOKENS = [5, 6, 7, 8, 9, 10, 11, 3, 1]
MODELS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "capped": CAPPED,
    "experts": EXPERTS,
    "latent": LATENT,
    # One key-value head for two tensor-parallel ranks.
    "shared_keys": dataclasses.replace(LLAMA, num_query_groups=1),
}
TP2 = ParallelConfig(tensor_model_parallel_size=2)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
EP2 = ParallelConfig(expert_model_parallel_size=2)


def look(model: ModelConfig, parallel: ParallelConfig) -> Probe | None:
    with open_world(parallel) as world:
        return probe(
            build(model, world, parallel=parallel),
            world=world,
            tokens=TOKENS,
            target=None,
            vocab_size=PADDED_VOCAB_SIZE,
            options=ProbeOptions(layers=(1, 3, 4), num_steps=6, batch_size=4, num_neurons=3, top_k=3),
        )


def look_at_all(models: list[ModelConfig], layouts: list[ParallelConfig]) -> list[Probe | None]:
    return [look(model, parallel) for model, parallel in zip(models, layouts, strict=True)]


@pytest.fixture(scope="module")
def expected() -> dict[str, Probe | None]:
    return {name: look(model, ParallelConfig()) for name, model in MODELS.items()}


def check(names: list[str], layouts: list[ParallelConfig], expected: dict[str, Probe | None], *, size: int) -> None:
    found, *others = run_distributed(look_at_all, size, [MODELS[name] for name in names], layouts)
    assert all(one is None for other in others for one in other)
    for name, mine in zip(names, found, strict=True):
        compare(mine, expected[name], name)


def compare(mine: Probe, one: Probe | None, name: str) -> None:
    # fp32, sums in another order; the logits of these models are up to 30.
    near = {"atol": 2e-4, "rtol": 2e-3}
    assert one is not None
    assert (mine.tokens, mine.target, mine.lens.keys()) == (one.tokens, one.target, one.lens.keys()), name
    assert list(mine.attention) == list(one.attention) == [1, 3, 4], name
    for number, attention in one.attention.items():
        torch.testing.assert_close(mine.attention[number], attention, **near)
    for number, layer in one.lens.items():
        for here, there in zip(mine.lens[number], layer, strict=True):
            assert here.top[0][0] == there.top[0][0], (name, number)
            assert here.surprisal == pytest.approx(there.surprisal, abs=2e-3), (name, number)
            assert here.divergence == pytest.approx(there.divergence, abs=2e-3), (name, number)
    assert mine.neurons.keys() == one.neurons.keys()
    for number, neurons in one.neurons.items():
        assert [neuron.index for neuron in mine.neurons[number]] == [neuron.index for neuron in neurons], name
        for here, there in zip(mine.neurons[number], neurons, strict=True):
            assert here.activations == pytest.approx(there.activations, abs=1e-3, rel=1e-3), name
    assert mine.experts.keys() == one.experts.keys()
    for number, activity in one.experts.items():
        assert mine.experts[number].chosen == activity.chosen, name
        assert mine.experts[number].shares == pytest.approx(activity.shares), name
    assert mine.attribution is not None and one.attribution is not None
    assert mine.attribution.scores == pytest.approx(one.attribution.scores, abs=5e-3, rel=5e-3), name
    assert mine.attribution.occlusion == pytest.approx(one.attribution.occlusion, abs=2e-3, rel=2e-3), name
    assert mine.attribution.completeness_gap == pytest.approx(one.attribution.completeness_gap, abs=2e-2), name


def test_one_process(expected: dict[str, Probe | None]) -> None:
    experts = expected["experts"]
    assert experts is not None and set(experts.experts) == {2, 4}
    assert set(experts.neurons) == {1, 3}
    for activity in experts.experts.values():
        assert sum(activity.shares) == pytest.approx(1)
        assert all(len(chosen) == EXPERTS.moe_router_topk for chosen in activity.chosen)
    for one in expected.values():
        assert one is not None
        assert one.lens[4] == one.output
        assert [here.divergence for here in one.lens[4]] == [0.0] * len(TOKENS)


def test_tensor_parallelism(expected: dict[str, Probe | None]) -> None:
    check(list(MODELS), [TP2] * len(MODELS), expected, size=2)


def test_pipeline_parallelism(expected: dict[str, Probe | None]) -> None:
    check(list(MODELS), [PP2] * len(MODELS), expected, size=2)


def test_data_and_expert_parallelism(expected: dict[str, Probe | None]) -> None:
    check(["llama", "experts"], [ParallelConfig(), EP2], expected, size=2)


def test_all_at_once(expected: dict[str, Probe | None]) -> None:
    both = dataclasses.replace(TP2, pipeline_model_parallel_size=2)
    check(["llama", "capped"], [both, both], expected, size=4)
