"""Run a model over trees of tokens: texts that begin alike are branches, and what they share is computed once.

b: rows of a forward pass, s: tokens of its longest row, n: query heads, g: key-value heads of this tensor-parallel
rank, d: channels of a head, h: hidden size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from trainer.model.cache import CachedStep


class TreeStep(CachedStep):
    """Describe one forward pass over rows of which each is a tree of tokens.

    Takes the place of a step with a cache, but keeps nothing: a token sees its ancestors and itself. Source: tree
    attention of SpecInfer (Miao et al. 2024, arXiv:2305.09781), where branches are drafts of a text.

    Args:
        depths: of each row's tokens, depth first: the number of tokens before each in its text, 0 for one that begins
            a text. The parent of a token is the last one before it with a smaller depth. Shorter rows are padded on the
            right.
        places: (row, token) of which logits are computed.
    """

    def __init__(
        self, depths: Sequence[np.ndarray], *, places: Sequence[tuple[int, int]], device: torch.device
    ) -> None:
        self.num_new = max(map(len, depths))
        shape = (len(depths), self.num_new)
        # Padding begins texts of its own, of one token each.
        positions = np.zeros(shape, np.int64)
        ends = np.tile(np.arange(1, self.num_new + 1), (len(depths), 1))
        for row, values in enumerate(depths):
            positions[row, : len(values)] = values
            ends[row, : len(values)] = find_subtree_ends(values)
        self.has_branches = any((values != np.arange(len(values))).any() for values in depths)
        """Whether a row has more than one text. One text needs no mask of a tree."""
        self._device = device
        self._ends = torch.from_numpy(ends).to(device)
        self.position_ids = torch.from_numpy(positions).to(device)
        self._rows, self._places = torch.tensor(places, device=device).unbind(dim=1)
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        self._turns = {}

    def select_last(self, hidden: torch.Tensor) -> torch.Tensor:
        """Keep the tokens at `places`: [s, b, h] to [1, len(places), h]."""
        return hidden[self._places, self._rows][None]

    def attend(
        self,
        layer_number: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None,
        window_size: int | None = None,
        kernel: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention,
        adds_mask: bool = False,
    ) -> torch.Tensor:
        """Attend with each token to its ancestors; see `CachedStep.attend`.

        Args:
            key, value: [s, b, g, d], of the whole rows.
            window_size: ancestors that a token sees at most, itself included.
        """
        sees_all = window_size is None or window_size >= self.num_new
        context = kernel(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            scale=scale,
            enable_gqa=query.shape[2] != key.shape[2],
            attn_mask=self._find_mask(None if sees_all else window_size, dtype=query.dtype),
        )
        return context.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _find_mask(self, window_size: int | None, *, dtype: torch.dtype) -> torch.Tensor:
        """Return the mask that is added to scores, [b, 1, s, s]; once for all layers of a window."""
        key = (window_size, dtype)
        if key not in self._masks:
            self._masks[key] = self._build_mask(window_size, dtype=dtype)
        return self._masks[key]

    def _build_mask(self, window_size: int | None, *, dtype: torch.dtype) -> torch.Tensor:
        numbers = torch.arange(self.num_new, device=self._device)
        # The descendants of a token directly follow it.
        sees = (numbers <= numbers[:, None]) & (numbers[:, None] < self._ends[:, None, :])
        if window_size is not None:
            # Differences of all pairs would take 8 bytes each.
            sees &= self.position_ids[:, None, :] > (self.position_ids - window_size)[:, :, None]
        mask = torch.zeros(sees.shape, dtype=dtype, device=self._device)
        return mask.masked_fill_(~sees, -torch.inf)[:, None]


def find_subtree_ends(depths: np.ndarray) -> np.ndarray:
    """Return of each token in depth-first order the number of the first one behind its descendants: [s] to [s]."""
    ends = np.full(len(depths), len(depths), np.int64)
    path: list[int] = []
    for number, depth in enumerate(depths):
        while len(path) > depth:
            ends[path.pop()] = number
        path.append(number)
    return ends
