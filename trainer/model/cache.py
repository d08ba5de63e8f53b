"""Keep rotated keys and values of generated texts, and attend to them: the core attention of cached decoding.

b: rows of a forward pass, s: new tokens of a row, L: keys, n: query heads, g: key-value heads of this tensor-parallel
rank, d: channels of a head.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

CAPACITY_STEP = 256
"""Positions by which the cache grows at least."""


class KeyValueCache:
    """Hold the keys and values of some texts (rows), layer by layer, as this rank computes them.

    Memory is allocated at the first use of a layer, for as many positions as are used, and doubles as texts grow.

    Args:
        num_rows: texts that the cache has room for.
    """

    def __init__(self, *, num_rows: int) -> None:
        self.num_rows = num_rows
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def memory_bytes(self) -> int:
        """Return the allocated memory."""
        return sum(part.numel() * part.element_size() for parts in self._layers.values() for part in parts)

    def room(
        self, layer_number: int, *, length: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys and values, [num_rows, g, at least length, d] each.

        Args:
            key, value: [s, b, g, d], for shape, data type and device.
        """
        kept = self._layers.get(layer_number)
        if kept is not None and kept[0].shape[2] >= length:
            return kept
        # Zeros: a key that is masked has no weight, but 0 * NaN is NaN.
        former = 0 if kept is None else kept[0].shape[2]
        capacity = max(2 * former, -(-length // CAPACITY_STEP) * CAPACITY_STEP)
        grown = [like.new_zeros(self.num_rows, like.shape[2], capacity, like.shape[3]) for like in (key, value)]
        if kept is not None:
            for old, new in zip(kept, grown, strict=True):
                new[:, :, :former] = old
        self._layers[layer_number] = (grown[0], grown[1])
        return self._layers[layer_number]

    def copy_row(self, source: int, target: int, *, length: int) -> None:
        """Copy the first `length` positions of a row to another row, in all layers."""
        for parts in self._layers.values():
            for part in parts:
                part[target, :, :length] = part[source, :, :length]

    def swap_rows(self, first: int, second: int, *, length: int) -> None:
        """Exchange the first `length` positions of two rows, in all layers."""
        for parts in self._layers.values():
            for part in parts:
                kept = part[first, :, :length].clone()
                part[first, :, :length] = part[second, :, :length]
                part[second, :, :length] = kept


class CachedStep:
    """Describe one forward pass with a cache: which tokens of which rows it adds.

    It is given to the model in place of Megatron-Core's attention mask, which layers pass on unchanged to the core
    attention. Rows may differ in length and in the number of new tokens; shorter ones are padded on the right.

    Args:
        rows: of the cache, ascending.
        starts: positions of each row that are in the cache.
        counts: new tokens of each row, at least one.
        max_length: of the model's context; positions of padding stay below it.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        *,
        rows: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        max_length: int,
        device: torch.device,
    ) -> None:
        assert len(rows) == len(starts) == len(counts) and min(counts) > 0
        self._cache, self._device = cache, device
        self._starts, self._counts = list(starts), list(counts)
        self.num_new = max(counts)
        self._end = max(starts) + self.num_new
        # A range of rows is a view of the cache; others are copied.
        self._range = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else None
        self._rows = torch.tensor(rows, device=device)
        self._has_equal_starts = min(starts) == max(starts)
        offsets = torch.arange(self.num_new, device=device)
        self._positions = torch.tensor(self._starts, device=device)[:, None] + offsets
        self.position_ids = self._positions.clamp(max=max_length - 1)
        """[b, s] int64: the position of each new token in its text."""
        self._bounds: dict[tuple[int | None, torch.dtype | None], tuple[int, torch.Tensor | None]] = {}
        self._turns: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def select_last(self, hidden: torch.Tensor) -> torch.Tensor:
        """Keep the last new token of each row: [s, b, h] to [1, b, h]."""
        if self.num_new == 1:
            return hidden
        last = torch.tensor(self._counts, device=hidden.device) - 1
        return hidden[last, torch.arange(len(last), device=hidden.device)][None]

    def turns(self, angles: torch.Tensor, *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of rotary angles, computed once for the layers that share the angles.

        Args:
            angles: [s, b, 1, d], both halves of the last axis equal.
            dtype: of the heads.
        Returns:
            [s, b, 1, d / 2] twice.
        """
        # The angles are kept too, so that no other tensor gets their address.
        kept = self._turns.get(angles.data_ptr())
        if kept is None:
            half = angles.chunk(2, dim=-1)[0]
            kept = (angles, half.cos().to(dtype), half.sin().to(dtype))
            self._turns[angles.data_ptr()] = kept
        return kept[1], kept[2]

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
        """Add keys and values to a layer of the cache, and attend to it.

        Args:
            layer_number: of the model, the same on every rank.
            query: [s, b, n, d], rotated.
            key, value: [s, b, g, d], the keys rotated.
            scale: of the scores; None takes d ** -0.5.
            window_size: keys that a query sees, its own included; None takes all before it.
            kernel: called as scaled_dot_product_attention.
            adds_mask: always give the kernel a mask, which is added to the scores; otherwise it is True for keys that a
                query sees, and None where it sees all, or all before it.
        Returns:
            [s, b, n * d].
        """
        keys, values = self._cache.room(layer_number, length=self._end, key=key, value=value)
        self._store(keys, key)
        self._store(values, value)
        first_key, mask = self._find_bounds(window_size, dtype=query.dtype if adds_mask else None)
        keys, values = (self._take(kept, first_key) for kept in (keys, values))
        num_new, num_rows, _, channels = query.shape
        if num_new == 1:
            # The queries that share keys are rows of one matrix: nothing is expanded.
            grouped = query.view(num_rows, key.shape[2], -1, channels)
            context = kernel(grouped, keys, values, attn_mask=mask, scale=scale, enable_gqa=False)
            return context.reshape(1, num_rows, -1)
        context = kernel(
            query.permute(1, 2, 0, 3),
            keys,
            values,
            scale=scale,
            enable_gqa=query.shape[2] != key.shape[2],
            **({"is_causal": True} if mask is None else {"attn_mask": mask}),
        )
        return context.permute(2, 0, 1, 3).reshape(num_new, num_rows, -1)

    def _store(self, kept: torch.Tensor, new: torch.Tensor) -> None:
        if self._has_equal_starts and self._range is not None:
            start = self._starts[0]
            kept[self._range, :, start : start + self.num_new] = new.permute(1, 2, 0, 3)
        else:
            kept[self._rows[:, None], :, self._positions] = new.transpose(0, 1)

    def _take(self, kept: torch.Tensor, first_key: int) -> torch.Tensor:
        rows = kept[self._range] if self._range is not None else kept[self._rows]
        return rows[:, :, first_key : self._end]

    def _find_bounds(self, window_size: int | None, *, dtype: torch.dtype | None) -> tuple[int, torch.Tensor | None]:
        """Return the first key that any query sees, and the mask of the keys from there on; once for all layers.

        Args:
            dtype: of a mask that is added to scores; None for one of True and False, or None where none is needed.
        """
        key = (window_size, dtype)
        if key not in self._bounds:
            self._bounds[key] = self._build_bounds(window_size, dtype=dtype)
        return self._bounds[key]

    def _build_bounds(self, window_size: int | None, *, dtype: torch.dtype | None) -> tuple[int, torch.Tensor | None]:
        first_key = 0 if window_size is None else max(0, min(self._starts) + 1 - window_size)
        sees_all = self._has_equal_starts and (
            self.num_new == 1 or (self._starts[0] == 0 and (window_size is None or window_size >= self.num_new))
        )
        if sees_all and dtype is None:
            return first_key, None
        positions = self._positions[:, None, :, None]
        keys = torch.arange(first_key, self._end, device=self._device)
        mask = keys <= positions
        if window_size is not None:
            mask &= keys > positions - window_size
        if dtype is None:
            return first_key, mask
        added = torch.zeros(mask.shape, dtype=dtype, device=self._device)
        return first_key, added.masked_fill_(~mask, -torch.inf)
