"""Flat ranges become rectangles that tile them exactly."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import MetadataIndex

from tests.checkpoint.fragments import (
    MODEL,
    build_chunks,
    local_values,
    make_fragments,
    open_world,
)
from trainer.checkpoint.pieces import ShardedTensorView, cut_flat_range, pieces_to_save, weights_to_load
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.sharding import describe_parameters


@st.composite
def _ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=4)))
    size = math.prod(shape)
    start = draw(st.integers(0, size))
    return shape, start, draw(st.integers(start, size))


@given(_ranges(), st.none() | st.integers(1, 40))
def test_rectangles_tile_the_range_exactly(case: tuple[tuple[int, ...], int, int], limit: int | None) -> None:
    shape, start, end = case
    block = torch.arange(math.prod(shape)).view(shape)
    covered = []
    for part in cut_flat_range(start, end, shape=shape, max_elements=limit):
        assert len(part.offset) == len(part.shape) == len(shape)
        inside = block[tuple(slice(o, o + n) for o, n in zip(part.offset, part.shape, strict=True))]
        assert inside.shape == part.shape
        values = inside.reshape(-1).tolist()
        assert values == list(range(part.flat_start, part.flat_start + part.num_elements))
        assert limit is None or part.num_elements <= limit
        covered += values
    assert covered == list(range(start, end))


@given(_ranges())
def test_few_rectangles_are_enough(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, end = case
    assert len(list(cut_flat_range(start, end, shape=shape))) <= max(1, 2 * len(shape) - 1)


def test_a_limit_cuts_whole_rows_where_a_row_fits() -> None:
    parts = list(cut_flat_range(0, 100 * 30, shape=(100, 30), max_elements=1000))
    assert {part.shape for part in parts} == {(33, 30), (1, 30)}


def test_a_hint_tells_two_copies_of_one_rectangle_apart() -> None:
    pieces = ShardedTensorView((4, 2), dtype=torch.float32)
    first, second = torch.zeros(2, 2), torch.ones(2, 2)
    pieces.add((0, 0), first)
    pieces.add((0, 0), second)
    assert pieces.__get_tensor_shard__(MetadataIndex("key", (0, 0), 0)) is first
    assert pieces.__get_tensor_shard__(MetadataIndex("key", (0, 0), 1)) is second
    assert pieces.num_elements == 8


def test_fragments_of_a_model_become_views_and_every_tensor_is_whole() -> None:
    with open_world(ParallelConfig()) as world:
        parameters = describe_parameters(build_chunks(ParallelConfig(), world))
        assert any(len(sharded.blocks) == 2 for sharded in parameters), "SwiGLU: gate and up are blocks of their own"
        saved: dict[str, int] = {}
        for rank in range(3):
            fragments = make_fragments(parameters, dp_rank=rank, dp_size=3)
            storages = {values.untyped_storage().data_ptr() for f in fragments for values in f.states.values()}
            for key, pieces in pieces_to_save(fragments).items():
                assert {view.untyped_storage().data_ptr() for view in pieces.views} <= storages
                saved[key] = saved.get(key, 0) + pieces.num_elements
    shapes = {block.key: block.global_shape for sharded in parameters for block in sharded.blocks}
    assert saved == {
        prefix + key: math.prod(shape)
        for key, shape in shapes.items()
        for prefix in ("model.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.")
    }
    assert shapes["decoder.layers.mlp.linear_fc1.weight"] == (4, 2 * MODEL.ffn_hidden_size, MODEL.hidden_size)


def test_weights_are_the_parameters_own_memory() -> None:
    with open_world(ParallelConfig()) as world:
        chunks = build_chunks(ParallelConfig(), world, precision=PrecisionConfig(params_dtype="bf16"))
        parameters = describe_parameters(chunks)
        for pieces in weights_to_load(parameters).values():
            for view in pieces.views:
                view.fill_(2.0)
        assert all(bool((parameter == 2.0).all()) for chunk in chunks for parameter in chunk.parameters())
        assert local_values("param", parameters[0]).numel() == parameters[0].parameter.numel()
