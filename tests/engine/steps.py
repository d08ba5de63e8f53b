"""Ten steps of a small model through the real engine, under any layout, and everything that must not depend on it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.data.batch import MicroBatch
from trainer.engine import deepspeed_engine, megatron_engine
from trainer.engine.base import Engine, StepResult
from trainer.engine.factory import build_engine
from trainer.model.sharding import describe_parameters
from trainer.parallel.world import World

NUM_STEPS = 10
SEQUENCES_PER_STEP = 8

LLAMA = ModelConfig(
    num_layers=4,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=16,
    vocab_size=PADDED_VOCAB_SIZE,
)
GPT2 = dataclasses.replace(
    LLAMA,
    num_query_groups=4,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    add_qkv_bias=True,
    untie_embeddings_and_output_weights=False,
)
OPTIMIZERS = {
    # As most runs have it: 1.0 is about the gradient norm of these models, so some steps are clipped and some are not.
    "usual": OptimizerConfig(),
    # Adam divides out what scales every gradient alike; beside a large epsilon it cannot, and every step is clipped.
    "clipped": OptimizerConfig(clip_grad=0.1, adam_eps=1e-3),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of `NUM_STEPS` steps."""

    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    model: ModelConfig = LLAMA
    optimizer: str = "usual"
    engine: EngineConfig = dataclasses.field(default_factory=DeepSpeedEngineConfig)
    precision: PrecisionConfig = dataclasses.field(default_factory=PrecisionConfig)
    micro_batch_size: int = 2


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A rectangle of a global tensor, as one rank holds it."""

    key: str
    global_shape: tuple[int, ...]
    global_offset: tuple[int, ...]
    values: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one rank saw of a case."""

    results: list[StepResult]
    initial: list[Piece]
    final: list[Piece]


@contextmanager
def open_engine(case: Case) -> Iterator[tuple[Engine, list, World]]:
    """The engine of a case around fresh weights, its chunks and its world."""
    with open_world(case.parallel) as world:
        chunks = build_chunks(case.parallel, world, model=case.model, precision=case.precision)
        engine = build_engine(
            chunks,
            config=case.engine,
            optimizer=OPTIMIZERS[case.optimizer],
            precision=case.precision,
            groups=world.groups,
            device=world.device,
        )
        yield engine, chunks, world
        engine.close()


def train(case: Case) -> Trained:
    """Take the steps; all ranks call this."""
    with open_engine(case) as (engine, chunks, world):
        initial = pieces_of(chunks)
        results = []
        for step in range(NUM_STEPS):
            results.append(take_step(engine, step, case=case, world=world))
            # Disturbs nothing. Where weights are gathered during the next forward pass, the last one's is this.
            if step in (NUM_STEPS // 2, NUM_STEPS - 1):
                engine.evaluate(micro_batches(0, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size))
        return Trained(results=results, initial=initial, final=pieces_of(chunks))


def train_all(cases: dict[str, Case]) -> dict[str, Trained]:
    """Run cases of one world size one after the other, to start processes once."""
    return {name: train(case) for name, case in cases.items()}


def take_step(engine: Engine, step: int, *, case: Case, world: World) -> StepResult:
    batches = micro_batches(step, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size)
    return engine.train_step(batches, learning_rate=rate_of(step))


def largest_difference(values: list[float], expected: list[float]) -> float:
    """Relative to what is expected."""
    return max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))


def rate_of(step: int) -> float:
    return 2e-3 * (1 + step % 3)


def micro_batches(step: int, *, case: Case, dp_rank: int = 0, dp_size: int = 1) -> list[MicroBatch]:
    """This rank's part of a global batch that depends on the step alone; masks leave each sequence another length."""
    model, size = case.model, case.micro_batch_size
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(0, PADDED_VOCAB_SIZE, (SEQUENCES_PER_STEP, 1), generator=generator)
    tokens = (starts + torch.arange(model.seq_length + 1)) % PADDED_VOCAB_SIZE  # counting: something to learn
    lengths = torch.randint(1, model.seq_length + 1, (SEQUENCES_PER_STEP, 1), generator=generator)
    positions = torch.arange(model.seq_length)
    mask = (positions[None] < lengths).float()
    own = torch.arange(SEQUENCES_PER_STEP).view(-1, dp_size, size)[:, dp_rank]
    return [
        MicroBatch(
            tokens=tokens[samples, :-1],
            labels=tokens[samples, 1:],
            loss_mask=mask[samples],
            position_ids=positions.expand(size, -1),
            sample_ids=tuple(samples.tolist()),
        )
        for samples in own
    ]


def pieces_of(chunks: Sequence) -> list[Piece]:
    """Copies of this rank's weights, by their place in the global model."""
    pieces = []
    for sharded in describe_parameters(chunks):
        flat = sharded.parameter.detach().reshape(-1)
        for block in sharded.blocks:
            end = block.flat_start + math.prod(block.local_shape)
            pieces.append(
                Piece(
                    key=block.key,
                    global_shape=block.global_shape,
                    global_offset=block.global_offset,
                    values=flat[block.flat_start : end].reshape(block.local_shape).clone(),
                )
            )
    return pieces


def assemble(ranks: Sequence[Sequence[Piece]]) -> dict[str, torch.Tensor]:
    """Put whole tensors together; what several ranks hold must be the same bits, and nothing may be missing."""
    whole: dict[str, torch.Tensor] = {}
    for piece in (piece for rank in ranks for piece in rank):
        tensor = whole.setdefault(piece.key, torch.full(piece.global_shape, torch.nan, dtype=piece.values.dtype))
        stacked = len(piece.global_shape) - piece.values.ndim
        part = tensor[tuple(piece.global_offset[:stacked])]
        for axis, (start, length) in enumerate(zip(piece.global_offset[stacked:], piece.values.shape, strict=True)):
            part = part.narrow(axis, start, length)
        assert bool(part.isnan().all()) or torch.equal(part, piece.values), f"copies of {piece.key} differ"
        part.copy_(piece.values)
    assert not [key for key, tensor in whole.items() if bool(tensor.isnan().any())]
    return whole


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What one rank saw of a step whose gradient was not finite on another rank."""

    result: StepResult
    is_untouched: bool
    """Weights, master weights, moments and the count of updates are what they were."""
    later_losses: list[float]
    undisturbed_losses: list[float]
    """Those of the same steps where no bad step came between."""


def skip_a_step(case: Case, *, bad_rank: int, is_loss_bad: bool = False, bad_weight: str = "norm") -> Skipped:
    """Between good steps take one that is not finite on one rank; all ranks call this.

    Args:
        is_loss_bad: the loss is infinite, and its gradient would not be; otherwise the gradient of one parameter is.
            `bad_rank` has the last layers then.
        bad_weight: part of the name of that parameter.
    """
    with open_engine(case) as (engine, _, world):
        undisturbed = [take_step(engine, step, case=case, world=world).loss for step in range(4)]
    with open_engine(case) as (engine, chunks, world):
        for step in (0, 1):
            take_step(engine, step, case=case, world=world)
        before, num_updates = _state_of(engine, chunks), engine.num_updates
        parameter = next(parameter for name, parameter in chunks[0].named_parameters() if bad_weight in name)
        hook = None
        if world.rank == bad_rank:
            hook = (
                chunks[-1].register_forward_hook(lambda module, inputs, losses: losses + torch.inf)
                if is_loss_bad
                else parameter.register_hook(lambda grad: grad * torch.inf)
            )
        result = take_step(engine, 2, case=case, world=world)
        if hook is not None:
            hook.remove()
        after = _state_of(engine, chunks)
        is_untouched = engine.num_updates == num_updates and all(map(torch.equal, before, after))
        later = [take_step(engine, step, case=case, world=world).loss for step in (2, 3)]
    return Skipped(result=result, is_untouched=is_untouched, later_losses=later, undisturbed_losses=undisturbed[2:])


def _state_of(engine: Engine, chunks: Sequence) -> list[torch.Tensor]:
    """Copies of everything that an update changes."""
    weights = [parameter.detach().clone() for chunk in chunks for parameter in chunk.parameters()]
    states = [tensor.clone() for fragment in engine.optimizer_fragments() for tensor in fragment.states.values()]
    return weights + states


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Number formats that one rank found during and after a step."""

    weights: set[torch.dtype]
    accumulated: set[torch.dtype]
    states: set[torch.dtype]
    is_finer_than_weights: bool
    """Accumulated gradients and master weights hold values that the weights' format cannot."""
    are_weights_rounded_masters: bool


def find_formats(case: Case) -> Formats:
    """Take a step and look; all ranks call this."""
    accumulated: list[torch.Tensor] = []
    module = {"deepspeed": deepspeed_engine, "megatron": megatron_engine}[case.engine.name]
    reduce = module.reduce_over_model_parallel

    def look(chunks: Sequence, *, gradient_of: Callable[..., torch.Tensor], **arguments: Any) -> None:
        accumulated.extend(gradient_of(p).clone() for chunk in chunks for p in chunk.parameters())
        reduce(chunks, gradient_of=gradient_of, **arguments)

    with (
        open_engine(case) as (engine, chunks, world),
        mock.patch.object(module, "reduce_over_model_parallel", look),
    ):
        take_step(engine, 0, case=case, world=world)
        fragments = engine.optimizer_fragments()
        masters = [fragment.states["param"] for fragment in fragments]
        weights = [
            fragment.sharded.parameter.detach().view(-1)[fragment.flat_start :][: fragment.num_elements]
            for fragment in fragments
        ]
        return Formats(
            weights={parameter.dtype for chunk in chunks for parameter in chunk.parameters()},
            accumulated={gradient.dtype for gradient in accumulated},
            states={tensor.dtype for fragment in fragments for tensor in fragment.states.values()},
            is_finer_than_weights=all(
                any(not torch.equal(t.to(weights[0].dtype).float(), t) for t in tensors)
                for tensors in (accumulated, masters)
            ),
            are_weights_rounded_masters=all(
                torch.equal(master.to(weight.dtype), weight) for master, weight in zip(masters, weights, strict=True)
            ),
        )
