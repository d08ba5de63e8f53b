"""Rules move rows where they belong, in both directions and for any range of rows."""

import dataclasses
import json

import pytest
import torch

from tests.huggingface.models import MODELS, VOCAB_SIZE
from trainer.config.model import ModelConfig
from trainer.huggingface.families.decoder import decoder_names
from trainer.huggingface.families.registry import FAMILIES, read_model
from trainer.huggingface.native_weights import read_source_rows
from trainer.huggingface.tensor_map import (
    TensorRule,
    UnmappedTensorError,
    build_rules,
    find_misfits,
    list_source_tensors,
)
from trainer.huggingface.weight_files import StoredTensor

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=8,
    ffn_hidden_size=12,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=2,
    seq_length=16,
    vocab_size=10,
    add_qkv_bias=True,
)
GPT2 = next(family for family in FAMILIES if family.model_type == "gpt2")


class Memory:
    """Weights in memory, all different numbers."""

    def __init__(self, rules: list[TensorRule]) -> None:
        self.values: dict[str, torch.Tensor] = {}
        start = 0
        for tensor in list_source_tensors(rules):
            count = torch.Size(tensor.shape).numel()
            self.values[tensor.name] = torch.arange(start, start + count, dtype=torch.float32).view(tensor.shape)
            start += count
        self.tensors = {name: StoredTensor(shape=tuple(v.shape), dtype=v.dtype) for name, v in self.values.items()}

    def read(self, name: str, first: int, end: int, *, axis: int = 0) -> torch.Tensor:
        return self.values[name].narrow(axis, first, end - first)


def rules_of(model: ModelConfig = MODEL) -> tuple[dict[tuple[str, int | None], TensorRule], list[TensorRule]]:
    rules = build_rules(model, decoder_names(model), vocab_size=10, padded_vocab_size=16)
    return {(rule.tensor.name, rule.tensor.layer): rule for rule in rules}, rules


def test_query_key_and_value_rows_lie_by_group() -> None:
    """Megatron-Core's order: for each group its two query heads, its key head, its value head, of two rows each."""
    by_name, rules = rules_of()
    source = Memory(rules)
    rule = by_name["self_attention.linear_qkv.weight", 1]
    query, key, value = (source.values[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv")
    expected = torch.cat([query[:4], key[:2], value[:2], query[4:], key[2:], value[2:]])
    assert torch.equal(read_source_rows(rule, source, 0, 16), expected)
    for first in range(16):
        for end in range(first + 1, 17):
            assert torch.equal(read_source_rows(rule, source, first, end), expected[first:end])


def test_gate_rows_lie_above_up_rows() -> None:
    by_name, rules = rules_of()
    source = Memory(rules)
    gate, up = (source.values[f"model.layers.0.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    found = read_source_rows(by_name["mlp.linear_fc1.weight", 0], source, 3, 20)
    assert torch.equal(found, torch.cat([gate, up])[3:20])


def test_padding_rows_of_the_vocabulary_are_zeros() -> None:
    by_name, rules = rules_of()
    source = Memory(rules)
    found = read_source_rows(by_name["output_layer.weight", None], source, 8, 16)
    assert torch.equal(found[:2], source.values["lm_head.weight"][8:])
    assert not found[2:].any()


def test_gpt2_matrices_are_transposed_and_lie_in_thirds() -> None:
    model = dataclasses.replace(
        MODEL,
        num_query_groups=4,
        position_embedding_type="learned_absolute",
        normalization="LayerNorm",
        activation="gelu_tanh",
        add_bias_linear=True,
        untie_embeddings_and_output_weights=False,
    )
    rules = build_rules(model, GPT2.names_of(model), vocab_size=10, padded_vocab_size=16)
    source = Memory(rules)
    (rule,) = (r for r in rules if r.tensor.name == "self_attention.linear_qkv.weight" and r.tensor.layer == 1)
    query, key, value = source.values["transformer.h.1.attn.c_attn.weight"].t().chunk(3)
    heads = [part[2 * head : 2 * head + 2] for head in range(4) for part in (query, key, value)]
    assert torch.equal(read_source_rows(rule, source, 0, 24), torch.cat(heads))
    assert torch.equal(read_source_rows(rule, source, 5, 13), torch.cat(heads)[5:13])


@pytest.mark.parametrize("name", MODELS)
def test_every_row_has_one_origin(name: str) -> None:
    """No two rows come from the same place, and all rows of every tensor of the checkpoint are used."""
    family, model = read_model(json.loads(MODELS[name]().config.to_json_string(use_diff=False)))
    rules = build_rules(model, family.names_of(model), vocab_size=VOCAB_SIZE, padded_vocab_size=256)
    places = [
        (segment.name, segment.source_row + row)
        for rule in rules
        for segment in rule.segments
        for row in range(segment.num_rows)
    ]
    assert len(set(places)) == len(places)
    sizes = {tensor.name: tensor.shape for tensor in list_source_tensors(rules)}
    transposed = {segment.name for rule in rules if rule.is_transposed for segment in rule.segments}
    assert len(places) == sum(shape[-1] if name in transposed else shape[0] for name, shape in sizes.items())


def test_a_family_without_a_tensor_is_named() -> None:
    model = dataclasses.replace(MODEL, add_bias_linear=True)
    with pytest.raises(UnmappedTensorError) as found:
        build_rules(model, decoder_names(model), vocab_size=10, padded_vocab_size=16)
    assert "mlp.linear_fc1.bias" in found.value.names


def test_tensors_that_do_not_fit_are_named() -> None:
    _, rules = rules_of()
    shapes = {tensor.name: tensor.shape for tensor in list_source_tensors(rules)}
    del shapes["model.norm.weight"]
    shapes["lm_head.weight"] = (11, 8)
    shapes["model.layers.2.mlp.up_proj.weight"] = (12, 8)
    shapes["rotary.inv_freq"] = (1,)
    found = {misfit.name: misfit.kind for misfit in find_misfits(rules, shapes, ignored=["rotary.inv_freq"])}
    assert found == {
        "model.norm.weight": "missing",
        "lm_head.weight": "shape",
        "model.layers.2.mlp.up_proj.weight": "unexpected",
    }
