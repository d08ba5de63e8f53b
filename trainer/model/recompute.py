"""Recomputing a module's output without Transformer Engine."""

import importlib.util
from typing import Any

from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput


class PlainCheckpointWithoutOutput(CheckpointWithoutOutput):
    """Megatron-Core's, which takes its own default of `fp8` for a yes and then asks Transformer Engine."""

    def __init__(self, fp8: Any = None) -> None:
        super().__init__(fp8=fp8 or None)


def fill_checkpoint_slot() -> None:
    """Let layers recompute norms (`recompute_modules`) where Transformer Engine is not installed."""
    if importlib.util.find_spec("transformer_engine") is None:
        tensor_parallel.CheckpointWithoutOutput = PlainCheckpointWithoutOutput
