"""Add the adapters of a checkpoint to a model's weights.

r: rank, p: parts of a fused layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.checkpoint.adapter_base import saved_lora
from trainer.checkpoint.dcp import SafeReader, read_pieces
from trainer.checkpoint.pieces import WEIGHTS_PREFIX, ShardedTensorView, weights_to_load
from trainer.checkpoint.trainer_state import TrainerState, read_state
from trainer.config.model import ModelConfig
from trainer.model.sharding import ShardedParameter, describe_trained

_WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class LowRankUpdate:
    """Hold what an adapter adds to a part of one weight: scale * b @ a."""

    a: torch.Tensor
    """[p * r, columns] fp32."""
    b: torch.Tensor
    """[rows, p * r] fp32, zero where a row is not of the part."""
    scale: float

    def product(self) -> torch.Tensor:
        """Return the update of the weight: [rows, columns] fp32."""
        return self.b @ self.a * self.scale


class SavedAdapters:
    """Read the adapters of a checkpoint by the names and places of the weights that they are added to."""

    def __init__(self, checkpoint: Path, state: TrainerState | None = None) -> None:
        state = read_state(checkpoint) if state is None else state
        lora = saved_lora(state)
        assert lora is not None, f"{checkpoint} holds no adapters"
        self.checkpoint, self.state, self.lora = checkpoint, state, lora
        self._model = state.model_config()
        contents = SafeReader(checkpoint).read_metadata().state_dict_metadata
        self._shapes = {
            key.removeprefix(WEIGHTS_PREFIX): tuple(entry.size)
            for key, entry in contents.items()
            if key.startswith(WEIGHTS_PREFIX) and isinstance(entry, TensorStorageMetadata)
        }

    @property
    def whole(self) -> frozenset[str]:
        """Names of the weights that are stored whole: those of a task head."""
        return frozenset(key for key in self._shapes if not is_adapter(key))

    @property
    def whole_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that are stored whole, by name."""
        return {key: self._shapes[key] for key in self.whole}

    @property
    def adapted(self) -> frozenset[str]:
        """Names of the weights that have adapters."""
        return frozenset(key.removesuffix(".lora_a") + _WEIGHT for key in self._shapes if key.endswith(".lora_a"))

    def read(self, weight: str, index: Sequence[int] = ()) -> LowRankUpdate:
        """Read the adapter of one weight of one layer (and expert).

        Args:
            weight: name of the weight, one of `adapted`.
            index: of the stacked axes.
        """
        name = weight.removesuffix(_WEIGHT)
        a, b = (self._read(f"{name}.{part}", tuple(index)) for part in ("lora_a", "lora_b"))
        num_parts = a.shape[0] // b.shape[1]
        part_of_row = find_parts(name, self._model, num_rows=b.shape[0], num_parts=num_parts)
        wide = torch.zeros(b.shape[0], num_parts, b.shape[1])
        wide[torch.arange(b.shape[0]), part_of_row] = b
        return LowRankUpdate(a=a, b=wide.flatten(1), scale=self.lora.scale)

    def read_whole(self, key: str) -> torch.Tensor:
        """Read a weight that is stored whole, fp32."""
        return self._read(key, ())

    def _read(self, key: str, index: tuple[int, ...]) -> torch.Tensor:
        shape = self._shapes[key]
        values = torch.empty(shape[len(index) :], dtype=torch.float32)
        view = ShardedTensorView(shape, dtype=torch.float32)
        view.add((*index, *(0 for _ in values.shape)), values.view((1,) * len(index) + tuple(values.shape)))
        read_pieces(self.checkpoint, {WEIGHTS_PREFIX + key: view})
        return values

    def updates_of(self, sharded: ShardedParameter) -> list[tuple[slice, LowRankUpdate]]:
        """Return the updates of a local weight: rows of the local parameter, and what is added to them."""
        if sharded.blocks[0].key not in self.adapted:
            return []
        found = []
        for block in sharded.blocks:
            stacked, columns = block.num_stacked_axes, block.local_shape[-1]
            update = self.read(block.key, block.global_offset[:stacked])
            row, column = block.global_offset[stacked:]
            first = block.flat_start // columns
            part = LowRankUpdate(
                a=update.a[:, column : column + columns],
                b=update.b[row : row + block.local_shape[0]],
                scale=update.scale,
            )
            found.append((slice(first, first + block.local_shape[0]), part))
        return found

    @torch.no_grad()
    def load_into(self, chunks: Sequence[nn.Module]) -> None:
        """Load the adapters, and a task head, into model chunks that have the same adapters."""
        read_pieces(self.checkpoint, weights_to_load(describe_trained(chunks)))

    @torch.no_grad()
    def merge_into(self, parameters: Sequence[ShardedParameter]) -> None:
        """Load the weights that are stored whole, and add the adapters to the weights of a model, in place.

        The sums are computed in fp32 and rounded once to the weights' data type.
        """
        whole = [sharded for sharded in parameters if sharded.blocks[0].key in self.whole]
        read_pieces(self.checkpoint, weights_to_load(whole))
        for sharded in parameters:
            for rows, update in self.updates_of(sharded):
                part = sharded.parameter.data[rows]
                part.copy_(part.float() + update.product().to(part.device))


def find_parts(name: str, model: ModelConfig, *, num_rows: int, num_parts: int) -> torch.Tensor:
    """Return the part of a fused layer that each row of a whole weight belongs to: [rows] int64.

    Args:
        name: of the layer in a checkpoint.
        num_rows: rows of the whole weight.
        num_parts: 3 for queries, keys and values, 2 for gate and up, 1 for one A.
    """
    rows = torch.arange(num_rows)
    if num_parts == 1:
        return torch.zeros_like(rows)
    if num_parts == 2:
        assert name.endswith("linear_fc1")
        return (rows >= num_rows // 2).long()
    assert name.endswith("linear_qkv") and num_parts == 3
    channels = model.head_size
    queries = model.num_attention_heads // model.num_query_groups * channels
    place = rows % (queries + 2 * channels)
    return (place >= queries).long() + (place >= queries + channels).long()


def is_adapter(key: str) -> bool:
    """Return whether a tensor of a checkpoint, by its name, belongs to an adapter."""
    return key.endswith((".lora_a", ".lora_b"))
