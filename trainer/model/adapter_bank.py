"""Apply one of several adapters to each row of a batch, beside the weights that all rows share, without gradients.

s: tokens, b: rows, r: rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region
from torch import nn

from trainer.model.forward_only import RowLinear


@dataclass(frozen=True, kw_only=True)
class BankedUpdate:
    """Hold this rank's part of the adapter of one linear layer, in the data type of its weight."""

    a: torch.Tensor
    """[r, input], of a row-parallel layer this rank's columns."""
    b: torch.Tensor
    """[output, r], times the scale; of a column-parallel layer this rank's rows."""


class AdapterBank:
    """Hold adapters by number, from 1; 0 is the model without one.

    Args:
        model: whose linear layers are called as modules; packing their weights does not matter.
        adapters: for each adapter its updates, by the name of the linear layer.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[Mapping[str, BankedUpdate]]) -> None:
        self._rows: list[tuple[int, torch.Tensor]] = []
        for name in dict.fromkeys(name for adapter in adapters for name in adapter):
            updates = {number: one[name] for number, one in enumerate(adapters, start=1) if name in one}
            module = model.get_submodule(name)
            module.register_forward_hook(self._hook(updates, is_row_parallel=isinstance(module, RowLinear)))

    def select(self, adapters: Sequence[int], *, device: torch.device) -> None:
        """Choose the adapter of each row of the following forward passes."""
        self._rows = [
            (number, torch.tensor([row for row, used in enumerate(adapters) if used == number], device=device))
            for number in sorted(set(adapters) - {0})
        ]

    def _hook(self, updates: Mapping[int, BankedUpdate], *, is_row_parallel: bool) -> Any:
        def add(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            """Add the updates to [s, b, output]."""
            values, bias = output
            for number, rows in self._rows:
                update = updates.get(number)
                if update is None:
                    continue
                low = inputs[0].index_select(1, rows) @ update.a.t()
                if is_row_parallel and module.tp_group.size() > 1:
                    low = reduce_from_tensor_model_parallel_region(low, group=module.tp_group)
                values = values.index_add(1, rows, low @ update.b.t())
            return values, bias

        return add
