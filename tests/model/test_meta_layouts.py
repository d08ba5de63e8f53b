"""GPT-2 124M and a 1 B Llama under every layout of 64 processes, on the meta device: no cluster needed.

Nothing is started and no memory is taken: process groups are stood for by their size and rank. (torch's `fake` backend
only answers that there is a world, which Megatron-Core asks for before it looks at a group's rank.)
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402
from torch import distributed  # noqa: E402
from torch.testing._internal.distributed import fake_pg  # noqa: E402

from trainer.config.derived import pad_vocab_size  # noqa: E402
from trainer.config.load import load_config  # noqa: E402
from trainer.config.model_math import count_parameters  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.config.pipeline_split import split_layers, write_layout  # noqa: E402
from trainer.config.schema import TrainConfig  # noqa: E402
from trainer.config.validate import validate  # noqa: E402
from trainer.model.gpt import build_model_chunks, build_transformer_config, count_layers  # noqa: E402
from trainer.model.megatron_patches import install_megatron_patches  # noqa: E402
from trainer.model.sharding import ShardedParameter, describe_parameters  # noqa: E402

WORLD_SIZE = 64
PRESETS = ("gpt2_124m", "llama_1b")


@dataclass(frozen=True)
class Group:
    """Stands for a process group."""

    number: int
    count: int

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.count


def groups_of(parallel: ParallelConfig, *, tp_rank: int, pp_rank: int, cp_rank: int) -> ProcessGroupCollection:
    alone, dp_size = Group(0, 1), WORLD_SIZE // parallel.model_parallel_size
    tp = Group(tp_rank, parallel.tensor_model_parallel_size)
    cp = Group(cp_rank, parallel.context_parallel_size)
    groups = {field.name: alone for field in dataclasses.fields(ProcessGroupCollection)}
    groups |= {
        "tp": tp,
        "expt_tp": tp,
        "pp": Group(pp_rank, parallel.pipeline_model_parallel_size),
        "cp": cp,
        "dp": Group(0, dp_size),
        "dp_cp": Group(cp_rank, dp_size * cp.count),
        "embd": None,  # the copy of a tied embedding would be summed over it
    }
    return ProcessGroupCollection(**groups)


@pytest.fixture(scope="module", autouse=True)
def _world() -> Iterator[None]:
    distributed.init_process_group("fake", store=fake_pg.FakeStore(), rank=0, world_size=WORLD_SIZE)
    parallel_state.set_data_parallel_rank(0)
    yield
    parallel_state.destroy_model_parallel()
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=PRESETS)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return load_config(
        [f"model={request.param}", "data.train=[{paths:[/data/wiki]}]", "training.global_batch_size=512"]
    )


@pytest.fixture(scope="module")
def layouts(config: TrainConfig) -> list[ParallelConfig]:
    """Every layout that the rules allow."""
    found = []
    for tp, pp, vp, cp in itertools.product((1, 2, 4, 8, 16), (1, 2, 4, 8, 16), (None, 2, 3), (1, 2, 4, 8)):
        plain = ParallelConfig(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            virtual_pipeline_model_parallel_size=vp,
            context_parallel_size=cp,
            sequence_parallel=tp > 1,
        )
        written = write_layout(config.model.num_layers, plain.num_model_chunks)
        variants = [plain] if split_layers(config.model.num_layers, plain) else []
        if pp > 1 and plain.num_model_chunks <= config.model.num_layers:
            variants += [dataclasses.replace(plain, pipeline_model_parallel_layout=written)]
        if cp > 1:
            variants += [dataclasses.replace(variant, cp_comm_type="a2a") for variant in variants]
        candidates = [dataclasses.replace(config, parallel=variant) for variant in variants]
        found += [one.parallel for one in candidates if not validate(one, world_size=WORLD_SIZE)]
    return found


def build_rank(
    config: TrainConfig, parallel: ParallelConfig, *, tp_rank: int = 0, pp_rank: int = 0, cp_rank: int = 0
) -> tuple[list[ShardedParameter], torch.Tensor]:
    """The parameters of one process, and how often it holds each layer."""
    # A written layout is the one thing that Megatron-Core asks its global state for.
    parallel_state.set_pipeline_model_parallel_rank(pp_rank)
    parallel_state.set_virtual_pipeline_model_parallel_world_size(parallel.virtual_pipeline_model_parallel_size)
    install_megatron_patches()
    chunks = build_model_chunks(
        config.model,
        transformer_config=build_transformer_config(config.model, parallel=parallel, precision=config.precision),
        padded_vocab_size=padded_vocab_size(config),
        pp_rank=pp_rank,
        groups=groups_of(parallel, tp_rank=tp_rank, pp_rank=pp_rank, cp_rank=cp_rank),
        device=torch.device("meta"),
        seed=None,
    )
    parameters = describe_parameters(chunks)
    assert all(sharded.parameter.is_meta for sharded in parameters)
    return parameters, count_layers(chunks, num_layers=config.model.num_layers)


def padded_vocab_size(config: TrainConfig) -> int:
    assert config.model.vocab_size is not None
    return pad_vocab_size(config.model, config.model.vocab_size)


def global_shapes(parameters: list[ShardedParameter]) -> dict[str, tuple[int, ...]]:
    return {block.key: block.global_shape for sharded in parameters for block in sharded.blocks}


def assert_whole(config: TrainConfig, parallel: ParallelConfig, expected: dict[str, tuple[int, ...]]) -> None:
    """All ranks of one copy of the model hold every element once, beside copies that are marked as such."""
    held: dict[str, dict[tuple[int, ...], int]] = defaultdict(dict)
    layers = torch.zeros(config.model.num_layers, dtype=torch.int64)
    tp_size, pp_size = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    for tp_rank, pp_rank in itertools.product(range(tp_size), range(pp_size)):
        parameters, counts = build_rank(config, parallel, tp_rank=tp_rank, pp_rank=pp_rank)
        layers += counts
        for sharded in parameters:
            for block in sharded.blocks:
                assert expected[block.key] == block.global_shape, block
                assert len(block.local_shape) + block.num_stacked_axes == len(block.global_shape), block
                starts, sizes = block.global_offset[block.num_stacked_axes :], expected[block.key]
                sizes = sizes[block.num_stacked_axes :]
                assert all(
                    start + length <= size for start, length, size in zip(starts, block.local_shape, sizes, strict=True)
                ), block
                # Norms are copies on all tensor-parallel ranks, and a tied embedding is one on the last stage.
                volume = math.prod(block.local_shape)
                assert held[block.key].setdefault(block.global_offset, volume) == volume, block
    assert layers.tolist() == [tp_size] * config.model.num_layers
    volumes = {key: sum(blocks.values()) for key, blocks in held.items()}
    assert volumes == {key: math.prod(shape) for key, shape in expected.items()}
    assert sum(volumes.values()) == count_parameters(config.model, padded_vocab_size(config))


def test_every_layout_holds_the_model_once(config: TrainConfig, layouts: list[ParallelConfig]) -> None:
    expected = global_shapes(build_rank(config, ParallelConfig())[0])
    tried = set()
    for parallel in layouts:
        if parallel.context_parallel_size == 1:
            assert_whole(config, parallel, expected)
            tried.add((parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size))
    print(f"{len(layouts)} layouts")
    heads = config.model.num_query_groups
    assert {tp for tp, _ in tried} == {size for size in (1, 2, 4, 8, 16) if heads % size == 0}
    assert {pp for _, pp in tried} == {size for size in (1, 2, 4, 8, 16) if size <= config.model.num_layers}


def test_context_parallel_ranks_hold_what_one_rank_holds(config: TrainConfig, layouts: list[ParallelConfig]) -> None:
    def last_stage(parallel: ParallelConfig, *, cp_rank: int) -> list[tuple[object, ...]]:
        last = parallel.pipeline_model_parallel_size - 1
        parameters, _ = build_rank(config, parallel, pp_rank=last, cp_rank=cp_rank)
        return [(sharded.name, sharded.parameter.shape, sharded.blocks) for sharded in parameters]

    alone: dict[str, list[tuple[object, ...]]] = {}  # by layout; several sizes and ways of communication have the same
    found = set()
    for parallel in layouts:
        if parallel.context_parallel_size == 1:
            continue
        plain = dataclasses.replace(parallel, context_parallel_size=1, cp_comm_type=ParallelConfig().cp_comm_type)
        if str(plain) not in alone:
            alone[str(plain)] = last_stage(plain, cp_rank=0)
        assert last_stage(parallel, cp_rank=parallel.context_parallel_size - 1) == alone[str(plain)], parallel
        found.add(parallel.cp_comm_type)
    assert found == {"all_gather", "a2a"}


def test_a_shape_that_is_cut_wrongly_is_found(config: TrainConfig) -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    expected = global_shapes(build_rank(config, ParallelConfig())[0])
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, ffn_hidden_size=2048))
    with pytest.raises(AssertionError):
        assert_whole(wider, parallel, expected)
