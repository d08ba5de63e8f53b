"""fp8 in Transformer Engine's layers: it computes, in another format than bf16, and trains."""

from dataclasses import replace

import pytest

from tests.engine.runs import LLAMA, Case, train
from tests.gpu.devices import ask_a_process, count_gpus, run_on_gpus
from trainer.config.engine import MegatronEngineConfig
from trainer.config.optim import PrecisionConfig

pytest.importorskip("transformer_engine", reason="needs Transformer Engine")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        count_gpus() == 0 or ask_a_process("torch.cuda.get_device_capability() >= (8, 9)") != "True",
        reason="needs a GPU with fp8",
    ),
]

# Transformer Engine multiplies in fp8 what has sides of multiples of 16.
MODEL = replace(LLAMA, hidden_size=128, ffn_hidden_size=256, transformer_impl="transformer_engine")
BF16 = Case(model=MODEL, precision=PrecisionConfig(params_dtype="bf16"), engine=MegatronEngineConfig())
CASES = {
    "bf16": BF16,
    "hybrid": replace(BF16, precision=PrecisionConfig(params_dtype="bf16", fp8="hybrid")),
    "e4m3": replace(BF16, precision=PrecisionConfig(params_dtype="bf16", fp8="e4m3")),
}


def losses_of_all() -> dict[str, list[float]]:
    return {name: [result.loss for result in train(case).results] for name, case in CASES.items()}


@pytest.fixture(scope="module")
def losses() -> dict[str, list[float]]:
    return run_on_gpus(losses_of_all, 1)[0]


@pytest.mark.parametrize("fp8", ["hybrid", "e4m3"])
def test_fp8_trains_beside_bf16(fp8: str, losses: dict[str, list[float]]) -> None:
    assert losses[fp8] != losses["bf16"]
    # e4m3 keeps 4 bits: single products are off by up to 6e-2, means over many of them by less.
    assert losses[fp8] == pytest.approx(losses["bf16"], rel=5e-2)
    assert losses[fp8][-1] < 0.9 * losses[fp8][0]
