"""Initialize weights as a function of (seed, parameter name, layer) only.

Each row of a global tensor has its own counter-based random stream, so a rank draws only its own rows, and every layout
gets the same bits.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from trainer.model.sharding import ParameterBlock, ShardedParameter

_OUTPUT_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")


@torch.no_grad()
def initialize_weights(
    parameters: Iterable[ShardedParameter], *, seed: int, std: float, num_layers: int, norm_weight: float = 1.0
) -> None:
    """Fill every parameter: norms `norm_weight`, biases 0, matrices normal with `std`.

    The projections that write into the residual stream get std / sqrt(2 * num_layers). Adapters begin without effect:
    A is uniform in +-1 / sqrt(input), and B is 0.

    Source: GPT-2 (Radford et al., 2019), Megatron-Core's scaled_init_method_normal; adapters as in peft (LoraLayer).
    """
    for sharded in parameters:
        flat = sharded.parameter.data.view(-1)
        for block in sharded.blocks:
            part = flat[block.flat_start : block.flat_start + math.prod(block.local_shape)]
            if block.key.endswith(("bias", "lora_b")):
                part.zero_()
            elif block.key.endswith("lora_a"):
                part.copy_(
                    (_draw(block, seed=seed, is_uniform=True).view(-1) * 2 - 1) / math.sqrt(block.global_shape[-1])
                )
            elif len(block.local_shape) == 1:
                part.fill_(norm_weight)
            else:
                scale = std / math.sqrt(2 * num_layers) if block.key.endswith(_OUTPUT_PROJECTIONS) else std
                part.copy_(_draw(block, seed=seed).view(-1) * scale)


def _draw(block: ParameterBlock, *, seed: int, is_uniform: bool = False) -> torch.Tensor:
    """Draw standard normal values of one block of a matrix, or uniform ones in [0, 1), fp32."""
    stacked = block.num_stacked_axes
    name = f"{seed}/{block.key}/{block.global_offset[:stacked]}"
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    num_rows, num_columns = block.local_shape
    first_row, first_column = block.global_offset[stacked:]
    width = block.global_shape[-1]
    values = np.empty((num_rows, num_columns), dtype=np.float32)
    for index, stream in enumerate(_row_streams(key, first_row, num_rows)):
        row = stream.random(width, dtype=np.float32) if is_uniform else stream.standard_normal(width, dtype=np.float32)
        values[index] = row[first_column : first_column + num_columns]
    return torch.from_numpy(values)


def _row_streams(key: int, first_row: int, num_rows: int) -> Iterator[np.random.Generator]:
    """Yield one generator per row: Philox counters 2**128 apart never overlap."""
    for row in range(first_row, first_row + num_rows):
        yield np.random.Generator(np.random.Philox(key=key, counter=[0, 0, row, 0]))
