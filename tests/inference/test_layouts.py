"""Generated texts are the same under every layout, with prompts of unequal length and more texts than rows."""

import dataclasses

import pytest

from tests.checkpoint.fragments import open_world
from tests.distributed.harness import run_distributed
from tests.inference.models import (
    CAPPED,
    EXPERTS,
    GPT2,
    LATENT,
    LLAMA,
    PROMPTS,
    WINDOWS,
    build,
    expected_tokens,
    generator_of,
    request,
    tokens_of,
)
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig

COUNT = 10
MODELS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "windows": WINDOWS,
    "capped": CAPPED,
    "experts": EXPERTS,
    "latent": LATENT,
    # One key-value head for two tensor-parallel ranks.
    "shared_keys": dataclasses.replace(LLAMA, num_query_groups=1),
}
TP2 = ParallelConfig(tensor_model_parallel_size=2)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
EP2 = ParallelConfig(expert_model_parallel_size=2)
DP2 = ParallelConfig()


def generate(models: list[ModelConfig], layouts: list[ParallelConfig]) -> list[list[list[int]]]:
    """Generate with each model under its layout; rank 0 returns the texts."""
    texts = []
    for model, parallel in zip(models, layouts, strict=True):
        with open_world(parallel) as world:
            generator = generator_of(build(model, world, parallel=parallel), world, num_rows=2)
            if world.rank:
                generator._runner.follow()
                continue
            texts.append(tokens_of(generator.run([request(prompt, COUNT) for prompt in PROMPTS])))
            generator._runner.stop()
    return texts


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    return {name: expected_tokens(model, COUNT) for name, model in MODELS.items()}


def check(names: list[str], layouts: list[ParallelConfig], expected: dict[str, list[list[int]]], *, size: int) -> None:
    texts, *_ = run_distributed(generate, size, [MODELS[name] for name in names], layouts)
    for name, found in zip(names, texts, strict=True):
        assert found == expected[name], name


def test_tensor_parallelism(expected: dict[str, list[list[int]]]) -> None:
    names = [name for name in MODELS if name != "shared_keys"]
    check(names, [TP2] * len(names), expected, size=2)


def test_pipeline_parallelism(expected: dict[str, list[list[int]]]) -> None:
    names = list(MODELS)
    check(names, [PP2] * len(names), expected, size=2)


def test_data_and_expert_parallelism(expected: dict[str, list[list[int]]]) -> None:
    check(["llama", "experts", "experts"], [DP2, DP2, EP2], expected, size=2)


def test_all_at_once(expected: dict[str, list[list[int]]]) -> None:
    both = dataclasses.replace(TP2, pipeline_model_parallel_size=2)
    experts = dataclasses.replace(PP2, expert_model_parallel_size=2)
    check(["llama", "windows", "experts"], [both, both, experts], expected, size=4)


def test_more_ranks_than_key_heads(expected: dict[str, list[list[int]]]) -> None:
    check(["shared_keys"], [TP2], expected, size=2)
