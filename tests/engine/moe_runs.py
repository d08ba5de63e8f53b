"""Runs of models with experts that the tests of them share: all of one world size in one start of its processes."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import distributed

from tests.checkpoint.fragments import layout_in, state_of
from tests.engine.steps import (
    GPT2,
    LLAMA,
    NUM_STEPS,
    Case,
    Trained,
    micro_batches,
    open_engine,
    rate_of,
    take_step,
    train_all,
)
from trainer.certificate.noise import RoundingNoise
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.base import StepResult

MEGATRON = MegatronEngineConfig()
MEGATRON_PLAIN = MegatronEngineConfig(use_distributed_optimizer=False)
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

DP2 = ParallelConfig()
EP2 = ParallelConfig(expert_model_parallel_size=2)
EP2_GATHER = replace(EP2, moe_token_dispatcher_type="allgather")
TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
TP2_WHOLE = replace(TP2, expert_tensor_parallel_size=1)
TP2_EP2 = replace(TP2_WHOLE, expert_model_parallel_size=2)
TP2_EP2_CUT = replace(TP2, expert_model_parallel_size=2)
EP4 = ParallelConfig(expert_model_parallel_size=4)
CUT_EP2 = replace(EP2, expert_tensor_parallel_size=2)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = replace(PP2, virtual_pipeline_model_parallel_size=2)
PP2_VP2_EP2 = replace(PP2_VP2, expert_model_parallel_size=2)
CP2_EP2 = ParallelConfig(context_parallel_size=2, expert_model_parallel_size=2)
RECOMPUTED = replace(EP2, recompute_granularity="selective", recompute_modules=["moe", "layernorm"])
ALL_RECOMPUTED = replace(EP2, recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)

BF16 = PrecisionConfig(params_dtype="bf16")
FP16 = PrecisionConfig(params_dtype="fp16")

ONE = {
    "sparse": Case(model=SPARSE, engine=MEGATRON),
    "deepspeed sparse": Case(model=SPARSE),
    "mixed": Case(model=MIXED, optimizer="clipped", engine=MEGATRON),
    "fp16": Case(model=MIXED, engine=MEGATRON, precision=FP16),
    "bf16": Case(model=SPARSE, engine=MEGATRON, precision=BF16),
}
# Each beside the name of the same run in one process.
TWO = {
    "ep2": ("sparse", Case(model=SPARSE, parallel=EP2, engine=MEGATRON)),
    "ep2 gather plain": ("sparse", Case(model=SPARSE, parallel=EP2_GATHER, engine=MEGATRON_PLAIN)),
    "ep2 recomputed": ("sparse", Case(model=SPARSE, parallel=RECOMPUTED, engine=MEGATRON)),
    "ep2 all recomputed": ("sparse", Case(model=SPARSE, parallel=ALL_RECOMPUTED, engine=MEGATRON)),
    "dp2": ("sparse", Case(model=SPARSE, engine=MEGATRON)),
    "tp2": ("sparse", Case(model=SPARSE, parallel=TP2, engine=MEGATRON)),
    "tp2 whole experts": ("sparse", Case(model=SPARSE, parallel=TP2_WHOLE, engine=MEGATRON)),
    "tp2 ep2": ("mixed", Case(model=MIXED, parallel=TP2_EP2, optimizer="clipped", engine=MEGATRON)),
    "pp2": ("mixed", Case(model=MIXED, parallel=PP2, optimizer="clipped", engine=MEGATRON)),
    "pp2 vp2": ("mixed", Case(model=MIXED, parallel=PP2_VP2, optimizer="clipped", engine=MEGATRON)),
    "deepspeed pp2 vp2": ("sparse", Case(model=SPARSE, parallel=PP2_VP2)),
    "cp2 ep2": ("sparse", Case(model=SPARSE, parallel=CP2_EP2, engine=MEGATRON)),
    "mixed ep2": ("mixed", Case(model=MIXED, parallel=EP2, optimizer="clipped", engine=MEGATRON_PLAIN)),
    "deepspeed dp2": ("sparse", Case(model=SPARSE)),
    "deepspeed dp2 zero0": (
        "mixed",
        Case(model=MIXED, optimizer="clipped", engine=DeepSpeedEngineConfig(zero_stage=0)),
    ),
    "deepspeed dp2 zero2": ("sparse", Case(model=SPARSE, engine=DeepSpeedEngineConfig(zero_stage=2))),
    "deepspeed tp2": ("sparse", Case(model=SPARSE, parallel=TP2)),
    "deepspeed pp2": ("sparse", Case(model=SPARSE, parallel=PP2)),
}
FOUR = {
    "ep2 dp4": ("sparse", Case(model=SPARSE, parallel=EP2, engine=MEGATRON)),
    "ep4": ("sparse", Case(model=SPARSE, parallel=EP4, engine=MEGATRON)),
    # Ranks that cut an expert hold other numbers of its tokens.
    "ep2 cut experts": ("sparse", Case(model=SPARSE, parallel=CUT_EP2, engine=MEGATRON)),
    "tp2 ep2 cut experts": ("sparse", Case(model=SPARSE, parallel=TP2_EP2_CUT, engine=MEGATRON)),
    "tp2 ep2 dp2": ("mixed", Case(model=MIXED, parallel=TP2_EP2, optimizer="clipped", engine=MEGATRON_PLAIN)),
    "pp2 vp2 ep2": ("mixed", Case(model=MIXED, parallel=PP2_VP2_EP2, optimizer="clipped", engine=MEGATRON)),
}
# In 16 bits a router's choice may fall otherwise, so these are not compared expert by expert.
FOUR_BF16 = {
    "bf16 ep4": Case(model=SPARSE, parallel=EP4, engine=MEGATRON, precision=BF16),
    "bf16 tp2 ep2 cut experts": Case(model=SPARSE, parallel=TP2_EP2_CUT, engine=MEGATRON, precision=BF16),
}
# Under which a checkpoint of EP2 is loaded.
LOADED_UNDER = {
    "ep2": Case(model=SPARSE, parallel=EP2, engine=MEGATRON),
    "dp2": Case(model=SPARSE, engine=MEGATRON_PLAIN),
    "deepspeed dp2": Case(model=SPARSE),
    "tp2 whole experts": Case(model=SPARSE, parallel=TP2_WHOLE, engine=MEGATRON),
    "pp2": Case(model=SPARSE, parallel=PP2, engine=MEGATRON),
}


NUM_PERTURBED = 8


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    trained: dict[str, Trained]
    perturbed: list[list[StepResult]] = field(default_factory=list)
    """Of "bf16", with rounding errors of their own and another order of the micro batches."""
    uninterrupted: list[float] = field(default_factory=list)
    """Losses of steps 3 and 4 of the run that saved before them."""
    resumed: dict[str, list[float]] = field(default_factory=dict)
    """The same losses after loading under another layout."""
    fp16_losses: list[float] = field(default_factory=list)
    zero_3: list[StepResult] = field(default_factory=list)
    """As "dp2", but for the weights, which no rank has whole."""


def run_one() -> Account:
    perturbed = [_train_perturbed(ONE["bf16"], seed=seed) for seed in range(1, NUM_PERTURBED + 1)]
    return Account(trained=train_all(ONE), perturbed=perturbed)


def run_two(directory: Path) -> Account:
    saved_under = LOADED_UNDER["ep2"]
    with open_engine(saved_under) as (engine, _, world):
        for step in range(3):
            take_step(engine, step, case=saved_under, world=world)
        state = state_of(3, parallel=saved_under.parallel, world_size=world.world_size, model=SPARSE)
        path = save_checkpoint(directory, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
        uninterrupted = [take_step(engine, step, case=saved_under, world=world).loss for step in (3, 4)]
    distributed.barrier()
    # The last stage alone has experts in its second layer; scaling losses must not make ranks wait for others.
    fp16 = Case(model=replace(MIXED, moe_layer_freq=[0, 0, 0, 1]), parallel=PP2, engine=MEGATRON, precision=FP16)
    sharded = Case(model=SPARSE, engine=DeepSpeedEngineConfig(zero_stage=3))
    with open_engine(sharded) as (engine, _, world):
        zero_3 = [take_step(engine, step, case=sharded, world=world) for step in range(NUM_STEPS)]
    return Account(
        trained=train_all({name: case for name, (_, case) in TWO.items()}),
        uninterrupted=uninterrupted,
        resumed={name: _resume(path, case) for name, case in LOADED_UNDER.items()},
        fp16_losses=[result.loss for result in train_all({"fp16": fp16})["fp16"].results],
        zero_3=zero_3,
    )


def run_four() -> Account:
    return Account(trained=train_all({name: case for name, (_, case) in FOUR.items()} | FOUR_BF16))


def _train_perturbed(case: Case, *, seed: int) -> list[StepResult]:
    """Train with sums in other orders, as trainer.certificate.noise makes them."""
    with open_engine(case) as (engine, chunks, world):
        RoundingNoise(chunks, seed=seed, device=world.device)
        order = random.Random(seed)
        results = []
        for step in range(NUM_STEPS):
            batches = micro_batches(step, case=case)
            order.shuffle(batches)
            results.append(engine.train_step(batches, learning_rate=rate_of(step)))
        return results


def _resume(path: Path, case: Case) -> list[float]:
    with open_engine(case) as (engine, _, world):
        layout = layout_in(case.parallel, world_size=world.world_size)
        state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
        engine.restore(num_updates=state.num_updates)
        return [take_step(engine, step, case=case, world=world).loss for step in (3, 4)]
