"""Plans know what adapters save: gradients, optimizer state and the gradients' half of the backward products."""

import pytest

from launch.plan.coefficients import load_coefficients
from launch.plan.predict import Prediction, predict
from trainer.config.load import load_config
from trainer.config.lora_math import count_trained_parameters, trained_flops_per_token
from trainer.config.model_math import count_parameters, model_flops_per_token
from trainer.config.schema import TrainConfig

VOCAB_SIZE = 128256


def plan(*overrides: str) -> tuple[TrainConfig, Prediction]:
    """A plan for Llama 3 8B on one host, without data."""
    config = load_config(
        ["model=llama_8b", f"model.vocab_size={VOCAB_SIZE}", "cluster=h100", "engine=megatron", *overrides],
        check=lambda config, doubtful: [],
    )
    return config, predict(config, load_coefficients())


def test_masked_tokens_alone_have_logits() -> None:
    """ModernBERT predicts 30 % of the tokens."""
    overrides = ["model=modernbert_base", "model.vocab_size=50368", "data.mask_token_id=1"]
    few, most = (
        predict(
            load_config([*overrides, f"data.mask_prob={share}"], check=lambda config, doubtful: []), load_coefficients()
        )
        for share in (0.3, 0.9)
    )
    assert 0 < float(few.stages[-1].logits) <= float(most.stages[-1].logits) / 3 * 1.001
    assert float(few.step_time.compute) < float(most.step_time.compute)
    distilled = load_config([*overrides, "data.mask_prob=0.3", "distill.teacher=x"], check=lambda config, doubtful: [])
    assert predict(distilled, load_coefficients()).stages[-1].logits > most.stages[-1].logits
    # 6 operations for each weight of the output layer and of the last MLP, which is gated, per token.
    saved = 0.6 * 6 * 768 * (50368 + 3 * 1152)
    assert (
        most.model_flops_per_second / most.tokens_per_second - few.model_flops_per_second / few.tokens_per_second
        == (pytest.approx(saved, rel=1e-3))
    )


def test_adapters_save_memory_and_time() -> None:
    config, whole = plan()
    with_lora, adapted = plan("lora.rank=16")
    trained = count_trained_parameters(with_lora.model, with_lora.lora, VOCAB_SIZE)
    # Of 32 layers: q, k, v (4096 to 4096 + 1024 + 1024), o, gate and up (to 14336 each), down; an A for each.
    assert trained == 32 * 16 * (3 * 4096 + 6144 + 4096 + 4096 + 2 * 4096 + 28672 + 14336 + 4096)
    share = trained / count_parameters(config.model, VOCAB_SIZE)
    for name, factor in (("weights", 1 + share), ("gradients", share), ("optimizer", share)):
        assert getattr(adapted.stages[0], name) == pytest.approx(factor * getattr(whole.stages[0], name)), name
    # fp32 weights and moments: 12 bytes, and an index.
    assert adapted.checkpoint_bytes == pytest.approx(12.005 * trained)
    flops = trained_flops_per_token(with_lora.model, with_lora.lora, VOCAB_SIZE)
    # 4 instead of 6 operations per weight, but for attention and adapters.
    assert 4 / 6 < flops / model_flops_per_token(config.model, VOCAB_SIZE) < 0.75
    assert 4 / 6 < float(adapted.step_time.compute) / float(whole.step_time.compute) < 0.9
