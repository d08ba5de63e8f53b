"""Whether a model's weights are numbers."""

from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from trainer.model.sharding import describe_parameters

_SHOWN_TENSORS = 3


def find_not_finite(chunks: Sequence[GPTModel]) -> list[str]:
    """Describe the tensors of this process that hold NaN or infinity: `NaN in tensor decoder.final_layernorm.weight`.

    Tensors have their names in checkpoints; where layers are stacked, the layer's number from 0 follows.
    """
    found = []
    for one in describe_parameters(chunks):
        if not bool(torch.isfinite(one.parameter).all()):
            kind = "NaN" if bool(torch.isnan(one.parameter).any()) else "infinity"
            block = one.blocks[0]
            layer = "".join(f"[{index}]" for index in block.global_offset[: block.num_stacked_axes])
            found.append(f"{kind} in tensor {block.key}{layer}")
    return list(dict.fromkeys(found))


def join_first(found: Sequence[str]) -> str:
    """Write what `find_not_finite` has found, the first few of it, for a message."""
    further = f" and {len(found) - _SHOWN_TENSORS} more" if len(found) > _SHOWN_TENSORS else ""
    return ", ".join(found[:_SHOWN_TENSORS]) + further
