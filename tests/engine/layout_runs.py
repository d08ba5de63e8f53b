"""Runs of layouts inside the model (context parallelism, documents, uneven pipelines, recomputation, dropout).

All of one world size in one start of its processes.
"""

import dataclasses
from dataclasses import dataclass, field, replace

import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from tests.engine.steps import OPTIMIZERS, Piece, pieces_of, rate_of
from trainer.build import build_chunks
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.data.batch import MicroBatch
from trainer.data.microbatch import DocumentConfig, build_micro_batch
from trainer.engine.base import StepResult
from trainer.engine.factory import build_engine
from trainer.parallel.world import World

NUM_STEPS = 3
SEQUENCES_PER_STEP = 8
EOD = 0

LLAMA = ModelConfig(
    num_layers=5,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=8,
    num_query_groups=4,
    seq_length=32,
    vocab_size=PADDED_VOCAB_SIZE,
    qk_layernorm=True,
)
GPT2 = replace(
    LLAMA,
    num_query_groups=8,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    qk_layernorm=False,
    untie_embeddings_and_output_weights=False,
)
DROPPING = replace(LLAMA, hidden_dropout=0.2, attention_dropout=0.3)
DOCUMENTS = DocumentConfig(eod_token_id=EOD, reset_attention_mask=True, reset_position_ids=True, eod_mask_loss=True)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Some steps under one layout."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    model: ModelConfig = LLAMA
    documents: DocumentConfig | None = None
    micro_batch_size: int = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one rank saw."""

    results: list[StepResult]
    initial: list[Piece]
    validation: tuple[float, float]


def layout(tp: int = 1, pp: int = 1, cp: int = 1, **others: object) -> ParallelConfig:
    return ParallelConfig(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        context_parallel_size=cp,
        sequence_parallel=tp > 1,
        **others,  # type: ignore[arg-type]
    )


FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
SELECTIVE = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "layernorm", "mlp"]}
DROPOUT_LAYOUTS = {"tp2": replace(layout(tp=2), sequence_parallel=False), "tp2 sp": layout(tp=2), "cp2": layout(cp=2)}

ONE = {
    "llama": Run(),
    "llama documents": Run(documents=DOCUMENTS),
    "gpt2": Run(model=GPT2),
    "gpt2 documents": Run(model=GPT2, documents=DOCUMENTS),
}
# Each beside the name of the same run in one process.
TWO = {
    "cp2": ("llama", Run(parallel=layout(cp=2))),
    "cp2 a2a": ("llama", Run(parallel=layout(cp=2, cp_comm_type="a2a"))),
    "cp2 documents": ("llama documents", Run(parallel=layout(cp=2), documents=DOCUMENTS)),
    "cp2 a2a documents": ("llama documents", Run(parallel=layout(cp=2, cp_comm_type="a2a"), documents=DOCUMENTS)),
    "cp2 documents gpt2": ("gpt2 documents", Run(parallel=layout(cp=2), model=GPT2, documents=DOCUMENTS)),
    "tp2 sp documents": ("llama documents", Run(parallel=layout(tp=2), documents=DOCUMENTS)),
    "dp2 documents": ("llama documents", Run(documents=DOCUMENTS)),
    "pp2 first 2": ("llama", Run(parallel=layout(pp=2, num_layers_in_first_pipeline_stage=2))),
    "pp2 last 1 documents": (
        "llama documents",
        Run(parallel=layout(pp=2, num_layers_in_last_pipeline_stage=1), documents=DOCUMENTS),
    ),
    "pp2 loss accounted": ("llama", Run(parallel=layout(pp=2, account_for_loss_in_pipeline_split=True))),
    "pp2 vp2 layout": (
        "llama",
        Run(parallel=layout(pp=2, virtual_pipeline_model_parallel_size=2, pipeline_model_parallel_layout="Et|tt|t|tL")),
    ),
    "pp2 vp3 embedding accounted": (
        "llama",
        Run(
            parallel=layout(pp=2, virtual_pipeline_model_parallel_size=3, account_for_embedding_in_pipeline_split=True)
        ),
    ),
    "pp2 embedding alone gpt2": (
        "gpt2",
        Run(parallel=layout(pp=2, pipeline_model_parallel_layout="E|tttttL"), model=GPT2),
    ),
    "pp2 recompute documents": (
        "llama documents",
        Run(parallel=layout(pp=2, num_layers_in_first_pipeline_stage=3, **FULL), documents=DOCUMENTS),
    ),
    "cp2 a2a recompute documents": (
        "llama documents",
        Run(parallel=layout(cp=2, cp_comm_type="a2a", **SELECTIVE), documents=DOCUMENTS),
    ),
}
FOUR = {
    "tp2 cp2 a2a documents": (
        "llama documents",
        Run(parallel=layout(tp=2, cp=2, cp_comm_type="a2a"), documents=DOCUMENTS),
    ),
    "pp2 cp2 documents": (
        "llama documents",
        Run(parallel=layout(pp=2, cp=2, num_layers_in_first_pipeline_stage=2), documents=DOCUMENTS),
    ),
    "dp2 cp2 a2a gpt2": ("gpt2", Run(parallel=layout(cp=2, cp_comm_type="a2a"), model=GPT2)),
    "cp4 documents": ("llama documents", Run(parallel=layout(cp=4), documents=DOCUMENTS)),
    "pp4 layout gpt2": (
        "gpt2",
        Run(parallel=layout(pp=4, pipeline_model_parallel_layout="Et|tt|t|tL"), model=GPT2, micro_batch_size=1),
    ),
    "tp2 pp2 vp2 documents": (
        "llama documents",
        Run(
            parallel=layout(
                tp=2,
                pp=2,
                virtual_pipeline_model_parallel_size=2,
                pipeline_model_parallel_layout="Ett|t|t|tL",
                **SELECTIVE,
            ),
            documents=DOCUMENTS,
        ),
    ),
}
# Under dropout a layout is compared with itself: with everything kept, and with activations computed again.
RECOMPUTED = {
    "tp2 sp full": (layout(tp=2), layout(tp=2, **FULL)),
    "tp2 selective": (
        replace(layout(tp=2), sequence_parallel=False),
        replace(layout(tp=2, **SELECTIVE), sequence_parallel=False),
    ),
    "tp2 sp selective": (layout(tp=2), layout(tp=2, **SELECTIVE)),
    "pp2 full": (
        layout(pp=2, num_layers_in_first_pipeline_stage=2),
        layout(pp=2, num_layers_in_first_pipeline_stage=2, **FULL),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """What one rank's dropout did."""

    hidden: torch.Tensor
    """[s, b, h] elements of ones that a layer's dropout after attention kept."""
    attention: torch.Tensor
    """What core attention gave from queries, keys and values that are the same on all ranks."""
    final: torch.Tensor
    """[s, b, h] behind the last layer."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    trained: dict[str, Outcome]
    recomputed: dict[str, tuple[list[StepResult], list[StepResult]]] = field(default_factory=dict)
    dropout: dict[str, Dropout] = field(default_factory=dict)


def run_one() -> Account:
    return Account(trained={name: train(run) for name, run in ONE.items()})


def run_two() -> Account:
    return Account(
        trained={name: train(run) for name, (_, run) in TWO.items()},
        recomputed={
            name: (
                train(Run(parallel=kept, model=DROPPING)).results,
                train(Run(parallel=recomputed, model=DROPPING)).results,
            )
            for name, (kept, recomputed) in RECOMPUTED.items()
        },
        dropout={name: drop(parallel) for name, parallel in DROPOUT_LAYOUTS.items()},
    )


def run_four() -> Account:
    return Account(trained={name: train(run) for name, (_, run) in FOUR.items()})


def train(run: Run) -> Outcome:
    """Take the steps; all ranks call this."""
    with open_world(run.parallel) as world:
        chunks = _build(run, world)
        initial = pieces_of(chunks)
        engine = build_engine(
            chunks,
            config=DeepSpeedEngineConfig(zero_stage=0),
            optimizer=OPTIMIZERS["clipped"],
            precision=PrecisionConfig(),
            groups=world.groups,
            device=world.device,
        )
        results = [
            engine.train_step(micro_batches(step, run=run, world=world), learning_rate=rate_of(step))
            for step in range(NUM_STEPS)
        ]
        validation = engine.evaluate(micro_batches(NUM_STEPS, run=run, world=world))
        engine.close()
        return Outcome(results=results, initial=initial, validation=validation)


def _build(run: Run, world: World) -> list:
    return build_chunks(
        run.model,
        parallel=run.parallel,
        precision=PrecisionConfig(),
        padded_vocab_size=PADDED_VOCAB_SIZE,
        world=world,
        seed=1,
        reset_position_ids=run.documents is not None and run.documents.reset_position_ids,
    )


def micro_batches(step: int, *, run: Run, world: World) -> list[MicroBatch]:
    """This rank's part of a global batch that depends on the step alone, of documents of 1 to 32 tokens."""
    generator = torch.Generator().manual_seed(step)
    length = run.model.seq_length + 1
    starts = torch.randint(1, PADDED_VOCAB_SIZE, (SEQUENCES_PER_STEP, 1), generator=generator)
    windows = 1 + (starts + torch.arange(length)) % (PADDED_VOCAB_SIZE - 1)  # counting: something to learn
    windows[torch.rand(windows.shape, generator=generator) < 0.15] = EOD
    size = run.micro_batch_size
    own = torch.arange(SEQUENCES_PER_STEP).view(-1, world.dp_size, size)[:, world.dp_rank]
    return [
        build_micro_batch(
            windows[samples],
            is_real=torch.ones(size, dtype=torch.bool),
            sample_ids=tuple(samples.tolist()),
            documents=run.documents,
        )
        for samples in own
    ]


def drop(parallel: ParallelConfig) -> Dropout:
    """Look at one forward pass in training mode; all ranks call this."""
    run = Run(parallel=parallel, model=dataclasses.replace(DROPPING, num_layers=2))
    with open_world(parallel) as world:
        (chunk,) = _build(run, world)
        chunk.train()
        layer = chunk.decoder.layers[0]
        seen: dict[str, torch.Tensor] = {}
        drop_and_add = layer.self_attn_bda

        def look(*arguments: object) -> object:
            add = drop_and_add(*arguments)

            def call(output_and_bias: tuple, residual: torch.Tensor, probability: float) -> torch.Tensor:
                output, bias = output_and_bias
                dropped = add((torch.ones_like(output), bias), torch.zeros_like(residual), probability)
                seen["hidden"] = dropped.detach() != 0
                return residual + output * dropped

            return call

        layer.self_attn_bda = look
        core = layer.self_attention.core_attention

        def give_the_same(_: object, inputs: tuple) -> tuple:
            query, key, value, *others = inputs
            generator = torch.Generator().manual_seed(5)
            return *(torch.randn(part.shape, generator=generator) for part in (query, key, value)), *others

        core.register_forward_pre_hook(give_the_same)
        core.register_forward_hook(lambda _, __, output: seen.update(attention=output.detach().clone()))
        chunk.decoder.register_forward_hook(lambda _, __, output: seen.update(final=output.detach().clone()))
        batch = micro_batches(0, run=run, world=world)[0]
        share = run.model.seq_length // world.cp_size
        with torch.no_grad():
            chunk(batch.tokens[:, :share], batch.position_ids[:, :share], None)
        return Dropout(**seen)
