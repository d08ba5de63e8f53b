"""Find the positions of a micro batch that have a target: only they need logits in training.

Of masked tokens, answers of an assistant or preferred answers most positions have none, and the output layer is among
the largest products of a small model.

s: tokens of a sequence, b: sequences, h: hidden size, n: positions with a target of the rank that has most of them.

Source: Portes et al. 2023 (MosaicBERT, arXiv:2312.17482) and Warner et al. 2024 (ModernBERT, arXiv:2412.13663,
"sparse prediction"), which do so for masked tokens.
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

    def pick_hidden(self, hidden: torch.Tensor, *, rank: int) -> torch.Tensor:
        """Return a rank's hidden states of targets: [s / ranks, b, h] to [n, 1, h]; any state for padding."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        own = self.positions[rank] - rank * len(flat)
        return flat.index_select(0, torch.where(own < len(flat), own, 0))[:, None]

    def pick_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels of targets, of all ranks: [b, s] to [1, ranks * n]; any label for padding."""
        flat = labels.transpose(0, 1).reshape(-1)
        return flat.index_select(0, self.positions.flatten().clamp(max=len(flat) - 1))[None]

    def spread(self, losses: torch.Tensor) -> torch.Tensor:
        """Put losses at their positions: [1, ranks * n] to [b, s], 0 without a target."""
        num_sequences, length = self.shape
        whole = losses.new_zeros(num_sequences * length + 1)
        whole = whole.scatter(0, self.positions.flatten(), losses.reshape(-1))
        return whole[:-1].view(length, num_sequences).transpose(0, 1).contiguous()


def find_target_positions(loss_mask: torch.Tensor, *, num_ranks: int, device: torch.device) -> TargetPositions | None:
    """Find the positions with a target; None if nearly all have one.

    Args:
        loss_mask: [b, s], 0 where there is no target; on the CPU, so that nobody waits for a device.
        num_ranks: ranks that the sequence is split over: those of tensor parallelism under sequence parallelism, else
            1. Each gets as many positions as the one with most targets has. Without any target, each has its first
            position: the gradient of its loss, which is 0 or not a number, still reaches all weights.
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
    rank, place = is_target.nonzero(as_tuple=True)
    positions = torch.full((num_ranks, size), num_sequences * length, dtype=torch.int64)
    # The targets of each rank are numbered from 0.
    positions[rank, torch.arange(len(rank)) - (counts.cumsum(0) - counts)[rank]] = rank * is_target.shape[1] + place
    return TargetPositions(positions=positions.to(device, non_blocking=True), shape=(num_sequences, length))
