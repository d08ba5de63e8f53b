"""Build micro batches, the data of one forward pass, from windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.token_dataset import TokenDataset
from trireme.errors import ConfigError, Violation


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Hold the sequences of one data-parallel rank for one forward pass (b sequences of s tokens), on the CPU.

    Every rank of a model-parallel group gets the same micro batch.
    """

    tokens: torch.Tensor
    """[b, s] int64."""
    labels: torch.Tensor
    """[b, s] int64: the next token of each position, or with masked tokens the token that was there. Of examples: the
    target that `trireme.shards.examples.ExamplesRecord` describes, and 0 where there is none."""
    loss_mask: torch.Tensor
    """[b, s] float32: 1 where the label counts; the weight of its class where classes are weighted."""
    position_ids: torch.Tensor
    """[b, s] int64."""
    document_starts: torch.Tensor | None = None
    """[b, s] int32: where in its sequence each token's document begins; a token attends to nothing before that. None
    lets it attend to all earlier tokens of its sequence."""
    sample_ids: tuple[int, ...]
    """Global sample numbers, counted from the start of the run: one per sequence."""
    token_types: torch.Tensor | None = None
    """[b, s] int64: segment of each token, for models with token types; None is 0 everywhere."""
    reference_losses: torch.Tensor | None = None
    """[b, s] float32: loss of each target under the reference model of preference optimization."""


def find_target_share(micro_batches: Sequence[MicroBatch]) -> float:
    """Return the share of positions that have a target."""
    return float(np.mean([float((batch.loss_mask != 0).float().mean()) for batch in micro_batches]))


PADDING = -1
"""Sample number of a padding sequence, whose loss mask is 0."""


@dataclass(frozen=True, kw_only=True)
class DocumentConfig:
    """Configure how documents inside a window are treated: the fields of DataConfig of these names."""

    eod_token_id: int
    reset_attention_mask: bool = False
    reset_position_ids: bool = False
    eod_mask_loss: bool = False


class WindowReader:
    """Read windows of several data sets as micro batches.

    Args:
        datasets: in the order of the configuration, all with the same seq_length.
        vocab_size: number of token ids of the model; None does not check ids.
        documents: how documents are treated; None treats each window as one document.
        transform: changes every micro batch, for another objective than the next token.
    """

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        *,
        vocab_size: int | None = None,
        documents: DocumentConfig | None = None,
        transform: Callable[[MicroBatch], MicroBatch] | None = None,
    ) -> None:
        self.datasets = datasets
        self.transform = transform
        self.vocab_size = vocab_size
        self.documents = documents

    def read(self, samples: np.ndarray, *, dataset: np.ndarray, window: np.ndarray) -> list[MicroBatch]:
        """Read samples.

        Args:
            samples: [m, b] int64 sample numbers, PADDING for padding.
            dataset: [m * b] data set of each sample; ignored for PADDING.
            window: [m * b] window of each sample; ignored for PADDING.
        Returns:
            m micro batches.
        """
        is_real = samples.ravel() != PADDING
        windows = torch.zeros(*samples.shape, self.datasets[0].seq_length + 1, dtype=torch.int64)
        flat = windows.numpy().reshape(samples.size, -1)
        for d, source in enumerate(self.datasets):
            rows = np.flatnonzero(is_real & (dataset == d))
            source.read_windows(window[rows], out=flat, rows=rows)
        self._check_ids(flat, dataset, window)
        real = torch.from_numpy(is_real.reshape(samples.shape))
        batches = [
            build_micro_batch(
                windows[m], is_real=real[m], sample_ids=tuple(samples[m].tolist()), documents=self.documents
            )
            for m in range(len(samples))
        ]
        return batches if self.transform is None else [self.transform(batch) for batch in batches]

    def close(self) -> None:
        """Close all files."""
        for dataset in self.datasets:
            dataset.close()

    def _check_ids(self, flat: np.ndarray, dataset: np.ndarray, window: np.ndarray) -> None:
        """Report the first token that is not in the embedding: a GPU would fail an assertion without its position."""
        place = find_foreign_token(flat, vocab_size=self.vocab_size)
        if place is None:
            return
        row, column = place
        source = self.datasets[dataset[row]]
        violation = Violation(
            path=f"{source.shards[0].prefix} (data set {dataset[row]})",
            value=f"token id {flat[row, column]}",
            message=f"token {int(window[row]) * source.seq_length + column} is outside of the model's vocabulary of "
            f"{self.vocab_size}",
            fix="Use the tokenizer of the shards, or a larger model.vocab_size.",
        )
        raise ConfigError([violation])


def find_foreign_token(tokens: np.ndarray, *, vocab_size: int | None) -> tuple[int, int] | None:
    """Return row and column of the first token id that the model does not have; None if there is none.

    Args:
        tokens: [n, any] integers.
        vocab_size: number of token ids of the model; None does not check.
    """
    if vocab_size is None or (tokens.max() < vocab_size and tokens.min() >= 0):
        return None
    row, column = np.argwhere((tokens >= vocab_size) | (tokens < 0))[0].tolist()
    return row, column


def build_micro_batch(
    windows: torch.Tensor, *, is_real: torch.Tensor, sample_ids: tuple[int, ...], documents: DocumentConfig | None
) -> MicroBatch:
    """Split windows into inputs and labels.

    Args:
        windows: [b, s + 1] int64.
        is_real: [b] bool: False for padding sequences.
    """
    tokens = windows[:, :-1].contiguous()
    loss_mask = is_real[:, None].expand_as(tokens).to(torch.float32)
    position_ids = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
    starts = None
    if documents is not None:
        starts = find_document_starts(tokens, eod_token_id=documents.eod_token_id)
        if documents.reset_position_ids:
            position_ids -= starts
        if documents.eod_mask_loss:
            loss_mask = loss_mask * (tokens != documents.eod_token_id)
    return MicroBatch(
        tokens=tokens,
        labels=windows[:, 1:].contiguous(),
        loss_mask=loss_mask,
        position_ids=position_ids,
        document_starts=starts if documents is not None and documents.reset_attention_mask else None,
        sample_ids=sample_ids,
    )


def find_document_starts(tokens: torch.Tensor, *, eod_token_id: int) -> torch.Tensor:
    """Find where in its sequence each token's document begins: after the preceding eod_token_id, or at 0.

    Args:
        tokens: [b, s].
    Returns:
        [b, s] int32.
    """
    starts = torch.zeros(tokens.shape, dtype=torch.int32)
    is_first = tokens[:, :-1] == eod_token_id
    starts[:, 1:] = torch.where(is_first, torch.arange(1, tokens.shape[1], dtype=torch.int32), 0)
    return starts.cummax(dim=1).values
