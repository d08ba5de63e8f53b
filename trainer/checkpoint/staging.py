"""A copy of this rank's share of a checkpoint in host memory, so that training may go on while it is written."""

import dataclasses
from collections.abc import Iterable

import torch

from trainer.checkpoint.pieces import is_written_here
from trainer.engine.base import OptimizerFragment


class HostCopy:
    """Copies fragments into memory that one save after the other uses again; pinned where they come from a GPU."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float32)

    @property
    def num_bytes(self) -> int:
        """Host memory that is held."""
        return self._memory.numel() * self._memory.element_size()

    @torch.no_grad()
    def take(self, fragments: Iterable[OptimizerFragment]) -> list[OptimizerFragment]:
        """Copy what this rank writes; what an earlier call returned is overwritten.

        Returns:
            The same fragments over host memory, without those that other ranks write.
        """
        written = [fragment for fragment in fragments if is_written_here(fragment)]
        sources = [values for fragment in written for values in fragment.states.values()]
        num_elements = sum(values.numel() for values in sources)
        is_on_device = any(values.is_cuda for values in sources)
        if self._memory.numel() < num_elements:
            self._memory = torch.empty(0, dtype=torch.float32)  # the old memory goes before the new one comes
            self._memory = torch.empty(num_elements, dtype=torch.float32, pin_memory=is_on_device)
        copies = self._memory[:num_elements].split([values.numel() for values in sources])
        for copy, values in zip(copies, sources, strict=True):
            copy.copy_(values, non_blocking=True)
        if is_on_device:
            torch.cuda.current_stream().synchronize()
        remaining = iter(copies)
        return [
            dataclasses.replace(fragment, states={name: next(remaining) for name in fragment.states})
            for fragment in written
        ]
