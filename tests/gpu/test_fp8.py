"""fp8 in Transformer Engine's layers: it computes, in another format than bf16, and trains."""

import pytest
import torch

pytest.importorskip("transformer_engine.pytorch")

from dataclasses import replace
from typing import Literal

from tests.engine.steps import LLAMA, Case, train
from trainer.config.engine import MegatronEngineConfig
from trainer.config.optim import PrecisionConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="needs a GPU with fp8"
    ),
]

# Transformer Engine multiplies in fp8 what has sides of multiples of 16.
MODEL = replace(LLAMA, hidden_size=128, ffn_hidden_size=256, transformer_impl="transformer_engine")


@pytest.mark.parametrize("fp8", ["hybrid", "e4m3"])
def test_fp8_trains_beside_bf16(fp8: Literal["hybrid", "e4m3"]) -> None:
    case = Case(model=MODEL, precision=PrecisionConfig(params_dtype="bf16"), engine=MegatronEngineConfig())
    expected = [result.loss for result in train(case).results]
    losses = [
        result.loss for result in train(replace(case, precision=PrecisionConfig(params_dtype="bf16", fp8=fp8))).results
    ]
    assert losses != expected
    # e4m3 keeps 4 bits: single products are off by up to 6e-2, means over many of them by less.
    assert losses == pytest.approx(expected, rel=5e-2)
    assert losses[-1] < 0.9 * losses[0]
