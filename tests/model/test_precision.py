"""What of the number formats reaches Megatron-Core's configuration."""

import pytest
import torch

from tests.checkpoint.fragments import MODEL
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.gpt import build_transformer_config
from trainer.model.megatron_patches import install_megatron_patches


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (PrecisionConfig(), torch.float32),
        (PrecisionConfig(params_dtype="bf16"), torch.bfloat16),
        (PrecisionConfig(params_dtype="fp16"), torch.float16),
        (PrecisionConfig(params_dtype="bf16", fp8="hybrid"), torch.bfloat16),
        (PrecisionConfig(params_dtype="bf16", fp8="e4m3"), torch.bfloat16),
    ],
)
def test_number_formats(precision: PrecisionConfig, dtype: torch.dtype) -> None:
    install_megatron_patches()
    config = build_transformer_config(MODEL, parallel=ParallelConfig(), precision=precision)
    assert config.params_dtype is config.pipeline_dtype is dtype
    assert (config.bf16, config.fp16) == (dtype is torch.bfloat16, dtype is torch.float16)
    assert config.fp8 == precision.fp8
