"""Small real models with hand-made optimizer fragments whose every value is known, under any layout."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from torch import distributed  # noqa: E402

from trainer.build import wire_model  # noqa: E402
from trainer.checkpoint.trainer_state import Layout, TrainerState, TrainProgress, build_state, layout_of  # noqa: E402
from trainer.config.model import ModelConfig  # noqa: E402
from trainer.config.optim import PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.engine.base import OPTIMIZER_STATES, OptimizerFragment  # noqa: E402
from trainer.model.sharding import ParameterBlock, ShardedParameter, describe_parameters  # noqa: E402
from trainer.parallel.world import World, end_layout, start_world, stop_world  # noqa: E402

PADDED_VOCAB_SIZE = 64
FP32 = PrecisionConfig()
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=16,
    ffn_hidden_size=24,
    num_attention_heads=4,
    num_query_groups=4,
    seq_length=32,
    vocab_size=PADDED_VOCAB_SIZE,
    make_vocab_size_divisible_by=64,
    add_qkv_bias=True,
    untie_embeddings_and_output_weights=False,
)


@contextmanager
def open_world(parallel: ParallelConfig, *, seed: int = 1) -> Iterator[World]:
    """Megatron-Core's groups of one layout; the processes can open another one afterwards."""
    was_initialized = distributed.is_initialized()
    world = start_world(parallel, timeout_seconds=60, seed=seed)
    try:
        yield world
    finally:
        if was_initialized:
            end_layout()
        else:
            stop_world()


def build_chunks(
    parallel: ParallelConfig,
    world: World,
    *,
    model: ModelConfig = MODEL,
    precision: PrecisionConfig = FP32,
    seed: int = 1,
) -> list:
    return wire_model(
        model, parallel=parallel, precision=precision, padded_vocab_size=PADDED_VOCAB_SIZE, world=world, seed=seed
    )


def global_tensor(state: str, block: ParameterBlock) -> torch.Tensor:
    """The whole tensor of a state that no layout cuts: random, the same wherever it is asked for."""
    digest = hashlib.sha256(f"{state}/{block.key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))
    return torch.randn(block.global_shape, generator=generator)


def local_values(state: str, sharded: ShardedParameter) -> torch.Tensor:
    """What a flattened local parameter must hold of it."""
    parts = []
    for block in sharded.blocks:
        stacked = block.num_stacked_axes
        part = global_tensor(state, block)[tuple(block.global_offset[:stacked])]
        starts = block.global_offset[stacked:]
        for axis, (start, length) in enumerate(zip(starts, block.local_shape, strict=True)):
            part = part.narrow(axis, start, length)
        parts.append(part.reshape(-1))
    return torch.cat(parts)


def make_fragments(
    parameters: Sequence[ShardedParameter], *, dp_rank: int = 0, dp_size: int = 1, fill: bool = True
) -> list[OptimizerFragment]:
    """Cut every parameter at odd places over data-parallel ranks; filled as `local_values` says, or with NaN."""
    fragments = []
    for sharded in parameters:
        size = sharded.parameter.numel()
        bounds = [0, *(min(size, (size * rank) // dp_size + 3 * rank) for rank in range(1, dp_size)), size]
        start, end = bounds[dp_rank], bounds[dp_rank + 1]
        if start == end:
            continue
        states = {
            state: local_values(state, sharded)[start:end] if fill else torch.full((end - start,), math.nan)
            for state in OPTIMIZER_STATES
        }
        fragments.append(
            OptimizerFragment(sharded=sharded, flat_start=start, num_elements=end - start, states=states, is_owner=True)
        )
    return fragments


def assert_filled(fragments: Sequence[OptimizerFragment]) -> None:
    """Every element of every state is what its place in the global model says, bit for bit."""
    assert fragments
    for fragment in fragments:
        end = fragment.flat_start + fragment.num_elements
        for state, values in fragment.states.items():
            expected = local_values(state, fragment.sharded)[fragment.flat_start : end]
            assert torch.equal(values, expected), (fragment.sharded.name, state)


def fragments_of(parallel: ParallelConfig, world: World, *, fill: bool) -> list[OptimizerFragment]:
    parameters = describe_parameters(build_chunks(parallel, world))
    group = world.groups.dp_cp
    return make_fragments(parameters, dp_rank=group.rank(), dp_size=group.size(), fill=fill)


def layout_in(parallel: ParallelConfig, *, world_size: int = 1) -> Layout:
    return layout_of(parallel, world_size=world_size, engine="by hand", device_type="cpu")


def state_of(
    step: int,
    *,
    parallel: ParallelConfig | None = None,
    world_size: int = 1,
    model: ModelConfig = MODEL,
    padded_vocab_size: int = PADDED_VOCAB_SIZE,
    validation_loss: float | None = None,
) -> TrainerState:
    return build_state(
        model,
        padded_vocab_size=padded_vocab_size,
        layout=layout_in(parallel or ParallelConfig(), world_size=world_size),
        run_name="test",
        progress=TrainProgress(
            step=step,
            consumed_samples=16 * step,
            consumed_tokens=16 * step * model.seq_length,
            validation_loss=validation_loss,
        ),
        num_updates=step,
        seed=1234,
    )


def flip_bit(path: Path, *, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
