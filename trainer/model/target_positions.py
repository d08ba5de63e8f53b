"""Find the positions of a micro batch that have a target: after the last attention, training needs only them.

Of masked tokens, answers of an assistant, preferred answers or classes of texts most positions have none, and the last
MLP and the output layer are a good part of a small model.

s: tokens of a sequence, b: sequences, h: hidden size, n: positions with a target of the rank that has most of them.

Source: Portes et al. 2023 (MosaicBERT, arXiv:2312.17482) and Warner et al. 2024 (ModernBERT, arXiv:2412.13663,
"sparse prediction"), which compute the logits of masked tokens only.
"""

from dataclasses import dataclass

import torch

_DENSE_SHARE = 7 / 8
"""Share of positions above which picking targets out costs about what it saves."""


@dataclass(frozen=True, kw_only=True)
class TargetPositions:
    """Hold positions with a target, in the order of hidden states [s, b], by the rank that has their hidden state."""

    positions: torch.Tensor
    """[ranks, n] int64 on the device, row * b + column of [s, b]; s * b for padding."""
    shape: tuple[int, int]
    """b, s."""
    rank: int
    """This one."""

    def pick_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return this rank's hidden states of targets: [s / ranks, b, h] to [n, 1, h]; any state for padding."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        own = self.positions[self.rank] - self.rank * len(flat)
        return flat.index_select(0, torch.where(own < len(flat), own, 0))[:, None]

    def pick_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels of targets, of all ranks: [b, s] to [1, ranks * n]; any label for padding."""
        flat = labels.transpose(0, 1).reshape(-1)
        return flat.index_select(0, self.positions.flatten().clamp(max=len(flat) - 1))[None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Put losses or scores at their positions: [1, ranks * n, ...] to [b, s, ...], 0 without a target."""
        num_sequences, length = self.shape
        whole = values.new_zeros(num_sequences * length + 1, *values.shape[2:])
        whole = whole.index_put((self.positions.flatten(),), values[0])
        return whole[:-1].unflatten(0, (length, num_sequences)).transpose(0, 1).contiguous()


def find_target_positions(
    loss_mask: torch.Tensor, *, num_ranks: int, rank: int, device: torch.device
) -> TargetPositions | None:
    """Find the positions with a target; None if nearly all have one.

    Args:
        loss_mask: [b, s], 0 where there is no target; on the CPU, so that nobody waits for a device.
        num_ranks: ranks that the sequence is split over: those of tensor parallelism under sequence parallelism, else
            1. Each gets as many positions as the one with most targets has. Without any target, each has its first
            position: the gradient of its loss, which is 0 or not a number, still reaches all weights.
        rank: this one of them.
        device: of the model.
    """
    num_sequences, length = loss_mask.shape
    is_target = (loss_mask != 0).transpose(0, 1).reshape(num_ranks, -1)
    counts = is_target.sum(dim=1)
    size = max(1, int(counts.max()))
    if size > _DENSE_SHARE * is_target.shape[1]:
        return None
    if not counts.any():
        is_target[:, 0] = True
        counts = is_target.sum(dim=1)
    ranks, places = is_target.nonzero(as_tuple=True)
    positions = torch.full((num_ranks, size), num_sequences * length, dtype=torch.int64)
    # The targets of each rank are numbered from 0.
    numbers = torch.arange(len(ranks)) - (counts.cumsum(0) - counts)[ranks]
    positions[ranks, numbers] = ranks * is_target.shape[1] + places
    positions = positions.to(device, non_blocking=True)
    return TargetPositions(positions=positions, shape=(num_sequences, length), rank=rank)
