"""Adapters train alike under every layout and engine, and the weights beneath them keep their bits."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    CP2,
    EP2,
    LLAMA,
    MEGATRON,
    MEGATRON_PLAIN,
    MIXED,
    OPTIMIZERS,
    PADDED_VOCAB_SIZE,
    PP2_VP2,
    SPARSE,
    TP2_SP,
    ZERO_0,
    Case,
    Trained,
    assemble,
    check_same_training,
    open_world,
    pieces_of,
    take_step,
)
from trainer.build import wire_model, wrap_in_engine
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.lora import LoraConfig, find_lora_targets
from trainer.config.lora_math import count_trained_parameters
from trainer.config.parallel import ParallelConfig
from trainer.engine.base import StepResult
from trainer.model.sharding import describe_frozen, describe_trained

NUM_STEPS = 4  # the first one has no gradient of A, since B is 0
LATENT = dataclasses.replace(
    LLAMA,
    multi_latent_attention=True,
    num_query_groups=LLAMA.num_attention_heads,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_head_dim=8,
    qk_pos_emb_head_dim=8,
    v_head_dim=8,
)
TP2 = dataclasses.replace(TP2_SP, sequence_parallel=False)
RECOMPUTED = ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
ZERO_2, ZERO_3 = DeepSpeedEngineConfig(zero_stage=2), DeepSpeedEngineConfig(zero_stage=3)
WHOLE_EXPERTS = dataclasses.replace(TP2_SP, expert_tensor_parallel_size=1)

ONE = {
    "llama": Case(),
    "llama replicated": Case(engine=MEGATRON_PLAIN),
    "llama recomputed": Case(parallel=RECOMPUTED),
    "sparse": Case(model=SPARSE),
    "mixed": Case(model=MIXED),
    "latent": Case(model=LATENT),
}
TWO = {
    "llama tp": Case(parallel=TP2),
    "llama tp zero2": Case(parallel=TP2_SP, engine=ZERO_2),
    "llama pp": Case(parallel=PP2_VP2),
    "llama pp megatron": Case(parallel=PP2_VP2, engine=MEGATRON),
    "llama cp": Case(parallel=CP2),
    "llama dp": Case(engine=MEGATRON),
    "llama zero0": Case(engine=ZERO_0),
    "llama zero3": Case(engine=ZERO_3),
    "sparse ep": Case(model=SPARSE, parallel=EP2, engine=MEGATRON),
    "sparse tp megatron": Case(model=SPARSE, parallel=TP2_SP, engine=MEGATRON),
    "sparse whole experts": Case(model=SPARSE, parallel=WHOLE_EXPERTS, engine=MEGATRON),
    "mixed tp": Case(model=MIXED, parallel=WHOLE_EXPERTS, engine=MEGATRON),
    "latent tp": Case(model=LATENT, parallel=TP2_SP),
}


def adapters_of(case: Case, **settings: object) -> LoraConfig:
    """Adapters of every layer that can have one."""
    return LoraConfig(rank=4, target_modules=find_lora_targets(case.model), **settings)  # type: ignore[arg-type]


def adapt(case: Case) -> Trained:
    """Train adapters; the frozen weights are compared with copies, where this rank has whole ones."""
    with open_world(case.parallel) as world:
        chunks = wire_model(
            case.model,
            parallel=case.parallel,
            precision=case.precision,
            padded_vocab_size=PADDED_VOCAB_SIZE,
            world=world,
            seed=1,
            lora=adapters_of(case),
        )
        frozen = [(one.name, one.parameter, one.parameter.detach().clone()) for one in describe_frozen(chunks)]
        adapters = {block.key for one in describe_trained(chunks) for block in one.blocks}
        assert all(key.endswith(("lora_a", "lora_b")) for key in adapters)
        initial = pieces_of(chunks)
        engine = wrap_in_engine(
            chunks,
            config=case.engine,
            optimizer=OPTIMIZERS[case.optimizer],
            precision=case.precision,
            groups=world.groups,
            device=world.device,
        )
        results: list[StepResult] = [take_step(engine, step, case=case, world=world) for step in range(NUM_STEPS)]
        saved = {block.key for one in engine.optimizer_fragments() for block in one.sharded.blocks}
        assert saved <= adapters, "a checkpoint holds adapters only"
        for name, parameter, before in frozen:
            assert parameter.numel() == 0 or torch.equal(parameter, before), f"{name} is frozen"
        trained = Trained(results=results, initial=initial, final=pieces_of(chunks), evaluated=(1.0, 1.0))
        engine.close()
        return trained


def adapt_all(cases: Mapping[str, Case]) -> dict[str, Trained]:
    return {name: adapt(case) for name, case in cases.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    (trained,) = run_distributed(adapt_all, 1, ONE)
    return trained


def test_one_process_learns(alone: dict[str, Trained]) -> None:
    """Every model's loss falls, and engines and recomputation do not matter."""
    for name, trained in alone.items():
        assert trained.losses[-1] < trained.losses[0], name
        assert not any(result.is_skipped for result in trained.results)
    for name in ("llama replicated", "llama recomputed"):
        check_same_training([alone[name]], alone["llama"])


def test_two_processes_train_as_one(alone: dict[str, Trained]) -> None:
    """Losses and gradient norms, to the bounds of all weights; initial weights bit for bit."""
    ranks = run_distributed(adapt_all, 2, TWO)
    for name in TWO:
        print(name)
        expected, trained = alone[name.partition(" ")[0]], [rank[name] for rank in ranks]
        check_same_training(trained, expected)
        whole = assemble([expected.initial])
        for key, tensor in assemble([rank.initial for rank in trained]).items():
            assert torch.equal(tensor, whole[key]), key


def count_in_chunks(cases: Mapping[str, Case]) -> dict[str, list[int]]:
    """Parameters of built adapters, with an A for every part and with a shared one."""
    counts = {}
    for name, case in cases.items():
        with open_world(case.parallel) as world:
            counts[name] = []
            for separate in (True, False):
                chunks = wire_model(
                    case.model,
                    parallel=case.parallel,
                    precision=case.precision,
                    padded_vocab_size=PADDED_VOCAB_SIZE,
                    world=world,
                    lora=adapters_of(case, separate_projections=separate),
                )
                counts[name].append(sum(one.parameter.numel() for one in describe_trained(chunks)))
    return counts


def test_counts_are_those_of_built_models() -> None:
    cases = {name: case for name, case in ONE.items() if " " not in name}
    (counts,) = run_distributed(count_in_chunks, 1, cases)
    for name, case in cases.items():
        expected = [
            count_trained_parameters(
                case.model, adapters_of(case, separate_projections=separate), vocab_size=PADDED_VOCAB_SIZE
            )
            for separate in (True, False)
        ]
        assert counts[name] == expected, name
