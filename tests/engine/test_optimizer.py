"""Which parameters decay, and that the decay is decoupled from the gradient."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.checkpoint.fragments import build_chunks, open_world
from tests.engine.runs import GPT2
from trainer.config.optim import OptimizerConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.optimizer import build_adamw, parameter_groups
from trainer.model.sharding import ShardedParameter, describe_parameters

MODEL = replace(GPT2, untie_embeddings_and_output_weights=True)


@pytest.fixture(scope="module")
def parameters() -> Iterator[list[ShardedParameter]]:
    """Of a model that has every kind: norms with biases, biased linear layers, both embeddings, an output layer."""
    with open_world(ParallelConfig()) as world:
        yield describe_parameters(build_chunks(ParallelConfig(), world, model=MODEL))


def decayed_names(parameters: list[ShardedParameter], config: OptimizerConfig) -> set[str]:
    decayed = {
        id(parameter)
        for group in parameter_groups(parameters, config=config)
        if group["weight_decay"] > 0
        for parameter in group["params"]
    }
    return {sharded.name.removeprefix("chunk0.") for sharded in parameters if id(sharded.parameter) in decayed}


def test_matrices_decay_and_norms_and_biases_do_not(parameters: list[ShardedParameter]) -> None:
    matrices = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    assert decayed_names(parameters, OptimizerConfig()) == {
        "embedding.word_embeddings.weight",
        "embedding.position_embeddings.weight",
        "output_layer.weight",
        *(f"decoder.layers.{layer}.{matrix}.weight" for layer in range(MODEL.num_layers) for matrix in matrices),
    }


def test_every_parameter_is_in_one_group(parameters: list[ShardedParameter]) -> None:
    grouped = [id(p) for group in parameter_groups(parameters, config=OptimizerConfig()) for p in group["params"]]
    assert sorted(grouped) == sorted(id(sharded.parameter) for sharded in parameters)


def test_switches_name_what_else_decays(parameters: list[ShardedParameter]) -> None:
    usual = decayed_names(parameters, OptimizerConfig())
    everything = {sharded.name.removeprefix("chunk0.") for sharded in parameters}
    biases = {name for name in everything if name.endswith("bias")}
    norms = {name for name in everything if "norm" in name and name.endswith("weight")}
    assert len(norms) == 2 * MODEL.num_layers + 1
    assert len(biases) == 4 * MODEL.num_layers + len(norms)
    assert decayed_names(parameters, OptimizerConfig(decay_biases=True)) == usual | biases
    assert decayed_names(parameters, OptimizerConfig(decay_norms=True)) == usual | norms
    embeddings = {"embedding.word_embeddings.weight", "embedding.position_embeddings.weight"}
    assert decayed_names(parameters, OptimizerConfig(decay_embeddings=False)) == usual - embeddings


def test_decay_is_decoupled(parameters: list[ShardedParameter]) -> None:
    config = OptimizerConfig(lr=0.01, weight_decay=0.5)
    optimizer = build_adamw(parameters, config=config)
    before = {sharded.name: sharded.parameter.detach().clone() for sharded in parameters}
    for sharded in parameters:
        sharded.parameter.grad = torch.zeros_like(sharded.parameter)
    optimizer.step()
    decayed = decayed_names(parameters, config)
    for sharded in parameters:
        factor = 1 - 0.01 * 0.5 if sharded.name.removeprefix("chunk0.") in decayed else 1.0
        # Without a gradient the moments stay zero: a decay that went through them would not be 0.5 % of the weight.
        torch.testing.assert_close(sharded.parameter.detach(), before[sharded.name] * factor)
