"""The biases with which routers choose experts follow the loads, keep fp32, and live in checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.checkpoint.fragments import layout_in, state_of
from tests.engine.runs import BF16, LLAMA, MEGATRON, ZERO_0, Case, micro_batches, open_engine, rate_of, take_step
from trainer.checkpoint.load import load_checkpoint, load_weights
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trainer.model.moe import find_routers

MODEL = replace(
    LLAMA,
    num_moe_experts=8,
    moe_layer_freq=[0, 1, 1, 1],
    moe_ffn_hidden_size=16,
    moe_router_topk=2,
    moe_router_score_function="sigmoid",
    moe_router_enable_expert_bias=True,
    moe_router_bias_update_rate=0.01,
    moe_router_load_balancing_type="none",
)


def biases_of(chunks: list) -> dict[int, torch.Tensor]:
    return {number: router.expert_bias.clone() for number, router in find_routers(chunks)}


@pytest.mark.parametrize(
    ("engine_config", "precision"),
    [(ZERO_0, "fp32"), (MEGATRON, "fp32"), (DeepSpeedEngineConfig(), "bf16"), (MEGATRON, "bf16")],
    ids=["zero0", "megatron", "zero1 bf16", "megatron bf16"],
)
def test_biases_follow_loads_and_come_back(engine_config: EngineConfig, precision: str, tmp_path: Path) -> None:
    case = Case(model=MODEL, engine=engine_config)
    case = replace(case, precision=BF16) if precision == "bf16" else case
    with open_engine(case) as (engine, chunks, world):
        expected = {number: torch.zeros(8) for number in biases_of(chunks)}
        for step in range(3):
            result = take_step(engine, step, case=case, world=world)
            assert result.routing is not None
            for layer in result.routing:
                deficit = 1 - 8 * torch.tensor(layer.expert_load, dtype=torch.float64)
                expected[layer.layer] += 0.01 * deficit.round(decimals=9).sign().float()
        kept = biases_of(chunks)
        assert list(kept) == [2, 3, 4]
        for number, bias in kept.items():
            assert bias.dtype is torch.float32 and bias.abs().max() >= 0.01
            torch.testing.assert_close(bias, expected[number], rtol=0, atol=1e-7)  # sums of 0.01 in fp32
        state = state_of(3, model=MODEL)
        path = save_checkpoint(tmp_path, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
    with open_engine(case) as (engine, chunks, world):
        load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout_in(case.parallel))
        engine.restore(num_updates=3)
        assert all(torch.equal(bias, kept[number]) for number, bias in biases_of(chunks).items())
    with open_engine(case) as (engine, chunks, world):
        load_weights(path, chunks=chunks)
        assert all(torch.equal(bias, kept[number]) for number, bias in biases_of(chunks).items())


def test_a_skipped_step_leaves_them() -> None:
    case = Case(model=MODEL, engine=MEGATRON)
    with open_engine(case) as (engine, chunks, world):
        before = biases_of(chunks)
        batches = micro_batches(0, case=case, dp_rank=world.dp_rank, dp_size=world.dp_size)
        assert engine.train_step(batches, learning_rate=rate_of(0), skip_update=True).is_skipped
        assert all(torch.equal(bias, before[number]) for number, bias in biases_of(chunks).items())
