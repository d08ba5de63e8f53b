"""torch.distributed.checkpoint's planners for `Pieces`: what each rank writes, and what it reads from which file.

The default planners look only into tensors; the loading one would also unpickle whatever a file calls bytes.
"""

import io
import math
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainer.checkpoint.pieces import Pieces
from trireme.errors import ConfigError, Violation

_MAX_NAMED_KEYS = 8


class PieceSavePlanner(DefaultSavePlanner):
    """Writes a dictionary of `Pieces`, and refuses a checkpoint in which a tensor is not written whole."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the pieces as they are."""
        assert all(isinstance(value, Pieces) for value in state_dict.values())
        super().set_up_planner(state_dict, storage_meta, is_coordinator)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Join the ranks' plans; the default planner checks for overlaps, and for gaps only with several ranks."""
        plans, metadata = super().create_global_plan(all_plans)
        for key, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            covered = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
            if covered != math.prod(entry.size):
                raise ValueError(f"the ranks hold {covered} of the {math.prod(entry.size)} elements of {key}")
        return plans, metadata

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        """Find the view that a write item stands for."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


class PieceLoadPlanner(LoadPlanner):
    """Reads into a dictionary of `Pieces`; every element must be in the checkpoint."""

    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the pieces and the checkpoint's table of contents."""
        assert metadata is not None
        self._pieces: dict[str, Pieces] = state_dict
        self._contents: dict[str, Any] = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        """Find the stored rectangles that overlap ours.

        Raises:
            ConfigError: a tensor is missing, has another shape or is not whole.
        """
        items: list[ReadItem] = []
        violations: list[Violation] = []
        for key, pieces in self._pieces.items():
            entry = self._contents.get(key)
            problem = _mismatch(pieces, entry)
            if problem is None:
                assert isinstance(entry, TensorStorageMetadata)
                found = create_read_items_for_chunk_list(key, entry, pieces.__create_chunk_list__())
                items += found
                covered = sum(math.prod(item.lengths) for item in found)
                if covered != pieces.num_elements:
                    problem = f"is stored in part: {covered} of {pieces.num_elements} elements needed here"
            if problem is not None:
                violations.append(
                    Violation(
                        path=key,
                        value=tuple(pieces.global_shape),
                        rule=problem,
                        fix="load a checkpoint of this model",
                    )
                )
        if violations:
            raise ConfigError(violations[:_MAX_NAMED_KEYS])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Nothing to agree on: each rank reads what it needs."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Nothing to add."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuse: our checkpoints hold tensors only, and bytes would have to be unpickled."""
        raise ValueError(f"{read_item.storage_index.fqn} is stored as bytes, not as a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Find the part of our memory that a stored rectangle is copied into (and cast to)."""
        index = read_item.dest_index
        target = self._pieces[index.fqn].__get_tensor_shard__(index).detach()
        for axis, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(axis, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Nothing to do: the target is the engine's own memory."""


def _mismatch(pieces: Pieces, entry: Any) -> str | None:
    if not isinstance(entry, TensorStorageMetadata):
        return "is not in the checkpoint"
    if entry.size != pieces.global_shape:
        return f"has another shape in the checkpoint: {tuple(entry.size)}"
    return None
