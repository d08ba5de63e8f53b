"""Find weights of a model that are not finite."""

from collections.abc import Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from trainer.model.sharding import describe_parameters

_SHOWN_TENSORS = 3


def find_not_finite(chunks: Sequence[GPTModel]) -> list[str]:
    """Describe this process's tensors that contain NaN or infinity: `NaN in tensor decoder.final_layernorm.weight`.

    Tensors have their checkpoint names; for stacked layers, the layer's number from 0 follows.
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
    """Join the first few descriptions of `find_not_finite`, for a message."""
    further = f" and {len(found) - _SHOWN_TENSORS} more" if len(found) > _SHOWN_TENSORS else ""
    return ", ".join(found[:_SHOWN_TENSORS]) + further
