"""One forward pass of data, and the samples it came from."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Sequences of one data-parallel rank for one forward pass (b sequences of s tokens), on the CPU.

    Every rank of a model-parallel group gets the same micro batch.
    """

    tokens: torch.Tensor
    """[b, s] int64."""
    labels: torch.Tensor
    """[b, s] int64: the next token of each position."""
    loss_mask: torch.Tensor
    """[b, s] float32: 1 where the label counts."""
    position_ids: torch.Tensor
    """[b, s] int64."""
    document_starts: torch.Tensor | None = None
    """[b, s] int32: where in its sequence each token's document begins; a token attends to nothing before that. None
    lets it attend to all of its sequence that is behind it."""
    sample_ids: tuple[int, ...]
    """Global sample numbers, counted from the start of the run: one per sequence."""
