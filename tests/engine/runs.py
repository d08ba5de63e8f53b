"""Steps of a small model through the real engine, under any layout, and everything that must not depend on it.

The certificate shows that all layouts compute the same thing (conf/certify/standard.yaml,
docs/training/layout_equivalence.md).
The tests beside this file show what it does not look at, and one layout of each kind.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from trainer.build import wire_model, wrap_in_engine
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig, MegatronEngineConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.data.micro_batch import DocumentConfig, MicroBatch, build_micro_batch
from trainer.engine.base import Engine, StepResult
from trainer.model.sharding import describe_parameters
from trainer.parallel.world import World

NUM_STEPS = 3
SEQUENCES_PER_STEP = 8
EOD = 0

# Two layouts add the same numbers in another order. Measured over the layouts of the certificate in ten steps: 9e-8
# relative of the loss and 5e-7 of the gradient norm; the bounds leave a factor of 10 and 20.
LOSS_TOLERANCE = 1e-6
GRAD_NORM_TOLERANCE = 1e-5

LLAMA = ModelConfig(
    num_layers=4,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=16,
    vocab_size=PADDED_VOCAB_SIZE,
)
GPT2 = replace(
    LLAMA,
    num_query_groups=4,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    add_qkv_bias=True,
    untie_embeddings_and_output_weights=False,
)
# Tensor-parallel ranks hold the norms of queries and keys alike, and use each on its own heads.
NORMED = replace(LLAMA, qk_layernorm=True)
DROPPING = replace(NORMED, hidden_dropout=0.2, attention_dropout=0.3)
# Losses on the router as heavy as they are nowhere else, so that a wrong scale of one shows in the gradient norm.
SPARSE = replace(
    LLAMA,
    num_moe_experts=4,
    moe_ffn_hidden_size=24,
    moe_shared_expert_intermediate_size=16,
    moe_aux_loss_coeff=0.5,
    moe_z_loss_coeff=0.1,
)
# Layers that differ, biases, experts of a function without a gate, and the other choices of the router.
MIXED = replace(
    GPT2,
    num_moe_experts=6,
    moe_layer_freq=[0, 1],
    moe_router_topk=3,
    moe_router_score_function="sigmoid",
    moe_router_topk_scaling_factor=1.5,
    moe_router_load_balancing_type="seq_aux_loss",
    moe_aux_loss_coeff=0.5,
)
DOCUMENTS = DocumentConfig(eod_token_id=EOD, reset_attention_mask=True, reset_position_ids=True, eod_mask_loss=True)

TP2 = ParallelConfig(tensor_model_parallel_size=2)
TP2_SP = replace(TP2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = replace(PP2, virtual_pipeline_model_parallel_size=2)
CP2 = ParallelConfig(context_parallel_size=2)
EP2 = ParallelConfig(expert_model_parallel_size=2)

ZERO_0 = DeepSpeedEngineConfig(zero_stage=0)
MEGATRON = MegatronEngineConfig()
MEGATRON_PLAIN = MegatronEngineConfig(use_distributed_optimizer=False)
# Buckets of a layer or so: several are in flight at once.
MEGATRON_GATHER = MegatronEngineConfig(overlap_param_gather=True, bucket_size=5000)

BF16 = PrecisionConfig(params_dtype="bf16")
FP16 = PrecisionConfig(params_dtype="fp16")
# Largest relative difference of a loss and of a gradient norm between 16-bit runs that round at other points.
TOLERANCES = {
    # Measured 5e-4 and 7e-3; bf16 keeps 8 bits, so a single value is off by up to 4e-3 of itself.
    "bf16": (3e-3, 3e-2),
    # Measured 1e-4 and 1.3e-3; fp16 keeps 11 bits: up to 5e-4.
    "fp16": (4e-4, 5e-3),
}

OPTIMIZERS = {
    # As most runs have it: 1.0 is about the gradient norm of these models, so some steps are clipped and some are not.
    "usual": OptimizerConfig(),
    # Adam divides out what scales every gradient alike; beside a large epsilon it cannot, and every step is clipped.
    "clipped": OptimizerConfig(clip_grad=0.1, adam_eps=1e-3),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of `num_steps` steps."""

    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    model: ModelConfig = LLAMA
    optimizer: str = "usual"
    engine: EngineConfig = dataclasses.field(default_factory=DeepSpeedEngineConfig)
    precision: PrecisionConfig = dataclasses.field(default_factory=PrecisionConfig)
    micro_batch_size: int = 2
    documents: DocumentConfig | None = None
    num_steps: int = NUM_STEPS


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
    """None under ZeRO 3, where no rank has a whole weight."""
    final: list[Piece]
    evaluated: tuple[float, float]
    """Sum of losses and tokens of a batch after the last step."""

    @property
    def losses(self) -> list[float]:
        return [result.loss for result in self.results]

    @property
    def grad_norms(self) -> list[float]:
        return [result.grad_norm for result in self.results]


@contextmanager
def open_engine(case: Case) -> Iterator[tuple[Engine, list, World]]:
    """The engine of a case around fresh weights, its chunks and its world."""
    with open_world(case.parallel) as world:
        chunks = build_model(case, world)
        engine = wrap_in_engine(
            chunks,
            config=case.engine,
            optimizer=OPTIMIZERS[case.optimizer],
            precision=case.precision,
            groups=world.groups,
            device=world.device,
        )
        yield engine, chunks, world
        engine.close()


def build_model(case: Case, world: World) -> list:
    """This rank's chunks, with weights of seed 1."""
    return wire_model(
        case.model,
        parallel=case.parallel,
        precision=case.precision,
        padded_vocab_size=PADDED_VOCAB_SIZE,
        world=world,
        seed=1,
        reset_position_ids=case.documents is not None and case.documents.reset_position_ids,
    )


def train(case: Case) -> Trained:
    """Take the steps; all ranks call this."""
    with open_engine(case) as (engine, chunks, world):
        initial = pieces_of(chunks)
        results = []
        for step in range(case.num_steps):
            results.append(take_step(engine, step, case=case, world=world))
            # Disturbs nothing. Where weights are gathered during the next forward pass, the last one's is this.
            if step in (0, case.num_steps - 1):
                batches = micro_batches(0, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size)
                evaluated = engine.evaluate(batches)
        return Trained(results=results, initial=initial, final=pieces_of(chunks), evaluated=evaluated)


def train_all(cases: Mapping[str, Case]) -> dict[str, Trained]:
    """Run cases of one world size one after the other, to start processes once."""
    return {name: train(case) for name, case in cases.items()}


def take_step(engine: Engine, step: int, *, case: Case, world: World) -> StepResult:
    batches = micro_batches(step, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size)
    return engine.train_step(batches, learning_rate=rate_of(step))


def take_steps(engine: Engine, steps: Sequence[int], *, case: Case, world: World) -> list[float]:
    """Their losses."""
    return [take_step(engine, step, case=case, world=world).loss for step in steps]


def check_same_training(
    ranks: Sequence[Trained],
    expected: Trained,
    *,
    tolerances: tuple[float, float] = (LOSS_TOLERANCE, GRAD_NORM_TOLERANCE),
) -> None:
    """Every rank tells the same, and it is what another run tells, but for rounding."""
    assert all(rank.results == ranks[0].results for rank in ranks), "every rank tells the same"
    loss = largest_difference(ranks[0].losses, expected.losses)
    grad_norm = largest_difference(ranks[0].grad_norms, expected.grad_norms)
    evaluated = largest_difference([ranks[0].evaluated[0]], [expected.evaluated[0]])
    print(f"loss {loss:.1e}, grad norm {grad_norm:.1e}, evaluated {evaluated:.1e}")
    assert max(loss, evaluated) <= tolerances[0]
    assert grad_norm <= tolerances[1]
    assert ranks[0].evaluated[1] == expected.evaluated[1], "of as many tokens"


def check_same_weights(ranks: Sequence[Trained], expected: Trained) -> None:
    """They start as the same bits, copies stay the same bits, and all went the same way but for rounding."""
    initial, expected_initial = assemble([rank.initial for rank in ranks]), assemble([expected.initial])
    assert initial.keys() == expected_initial.keys()
    assert all(torch.equal(initial[key], expected_initial[key]) for key in initial), "bit for bit"
    final, expected_final = assemble([rank.final for rank in ranks]), assemble([expected.final])
    for key, tensor in final.items():
        # Adam makes a step of its own out of rounding where a gradient is near zero; such elements are few.
        way = (expected_final[key] - expected_initial[key]).norm()
        assert way > 0, f"{key} was trained"
        assert (tensor - expected_final[key]).norm() < 2e-3 * way, key


def largest_difference(values: Sequence[float], expected: Sequence[float]) -> float:
    """Relative to what is expected."""
    return max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))


def rate_of(step: int) -> float:
    return 2e-3 * (1 + step % 3)


def micro_batches(step: int, *, case: Case, dp_rank: int = 0, dp_size: int = 1) -> list[MicroBatch]:
    """This rank's part of a global batch that depends on the step alone; masks leave each sequence another length."""
    length, size = case.model.seq_length + 1, case.micro_batch_size
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(0, PADDED_VOCAB_SIZE, (SEQUENCES_PER_STEP, 1), generator=generator)
    tokens = (starts + torch.arange(length)) % PADDED_VOCAB_SIZE  # counting: something to learn
    lengths = torch.randint(1, length, (SEQUENCES_PER_STEP, 1), generator=generator)
    mask = (torch.arange(length - 1) < lengths).float()
    if case.documents is not None:
        tokens[torch.rand(tokens.shape, generator=generator) < 0.15] = EOD
    own = torch.arange(SEQUENCES_PER_STEP).view(-1, dp_size, size)[:, dp_rank]
    batches = []
    for samples in own:
        batch = build_micro_batch(
            tokens[samples],
            is_real=torch.ones(size, dtype=torch.bool),
            sample_ids=tuple(samples.tolist()),
            documents=case.documents,
        )
        batches.append(replace(batch, loss_mask=batch.loss_mask * mask[samples]))
    return batches


def pieces_of(chunks: Sequence) -> list[Piece]:
    """Copies of this rank's weights, by their place in the global model."""
    pieces = []
    if any(parameter.numel() == 0 for chunk in chunks for parameter in chunk.parameters()):
        return []  # under ZeRO 3 no rank has a whole weight
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
