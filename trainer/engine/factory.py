"""Choose the back end that a configuration names."""

from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection

from trainer.config.engine import EngineConfig, MegatronEngineConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.engine.base import Engine
from trainer.engine.deepspeed.engine import DeepSpeedEngine
from trainer.engine.megatron.engine import MegatronEngine


def build_engine(
    chunks: Sequence[GPTModel],
    *,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    precision: PrecisionConfig,
    groups: ProcessGroupCollection,
    device: torch.device,
) -> Engine:
    """Build the engine around this rank's model chunks, whose weights have their number format already."""
    if isinstance(config, MegatronEngineConfig):
        return MegatronEngine(
            chunks, config=config, optimizer=optimizer, precision=precision, groups=groups, device=device
        )
    return DeepSpeedEngine(
        chunks, config=config, optimizer=optimizer, precision=precision, groups=groups, device=device
    )
