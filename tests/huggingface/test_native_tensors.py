"""What is listed without a model is what a built model has, name by name and shape by shape."""

import json
from typing import Any

import pytest

from tests.checkpoint.fragments import open_world
from tests.huggingface.models import MODELS
from trainer.build import wire_model
from trainer.config.derived import pad_vocab_size
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.huggingface.families.registry import read_model
from trainer.huggingface.native_tensors import list_native_tensors
from trainer.model.sharding import describe_buffers, describe_parameters


def assert_listed(model: ModelConfig) -> None:
    padded = pad_vocab_size(model, model.vocab_size or 0)
    with open_world(ParallelConfig()) as world:
        chunks = wire_model(
            model, parallel=ParallelConfig(), precision=PrecisionConfig(), padded_vocab_size=padded, world=world
        )
        found: dict[str, tuple[int, ...]] = {}
        places: list[tuple[str, tuple[int, ...]]] = []
        for sharded in [*describe_parameters(chunks), *describe_buffers(chunks)]:
            block = sharded.blocks[0]
            found[block.key] = block.global_shape
            places.append((block.key, block.global_offset[: block.num_stacked_axes]))
    listed = list_native_tensors(model, padded_vocab_size=padded)
    assert {tensor.key: (*tensor.stacked_shape, *tensor.shape) for tensor in listed} == found
    assert sorted((tensor.key, tensor.place) for tensor in listed) == sorted(places)


@pytest.mark.parametrize("name", MODELS)
def test_families(name: str) -> None:
    _, model = read_model(json.loads(MODELS[name]().config.to_json_string(use_diff=False)))
    assert_listed(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_placement": "sum", "normalization": "LayerNorm", "add_bias_linear": True},
        {"num_moe_experts": 4, "moe_layer_freq": [0, 1], "moe_shared_expert_intermediate_size": 24},
        {"num_moe_experts": 4, "add_bias_linear": True, "activation": "gelu"},
    ],
    ids=["norm of the sum", "experts in every second layer", "experts with biases"],
)
def test_models_of_no_family(changes: dict[str, Any]) -> None:
    shape = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
    assert_listed(ModelConfig(**shape, seq_length=16, vocab_size=100, **changes))
