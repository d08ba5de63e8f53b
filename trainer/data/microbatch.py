"""From windows to micro batches.

Shape letters: m micro batches, b sequences, s tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch

from trainer.common.errors import ConfigError, Violation
from trainer.data.batch import MicroBatch
from trainer.data.token_dataset import TokenDataset

PADDING = -1
"""Sample number of a sequence that only fills a batch: its loss mask is 0 everywhere."""


class WindowReader:
    """Reads windows of several data sets as micro batches.

    Args:
        datasets: in the order of the configuration, all of one seq_length.
        vocab_size: smallest token id that the model does not have; None does not check ids.
    """

    def __init__(self, datasets: Sequence[TokenDataset], *, vocab_size: int | None = None) -> None:
        self.datasets = datasets
        self.vocab_size = vocab_size

    def read(self, samples: np.ndarray, *, dataset: np.ndarray, window: np.ndarray) -> list[MicroBatch]:
        """Read samples.

        Args:
            samples: [m, b] int64 sample numbers, PADDING where there is none.
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
        return [
            _build_micro_batch(windows[m], is_real=real[m], ids=tuple(samples[m].tolist())) for m in range(len(samples))
        ]

    def close(self) -> None:
        """Close all files."""
        for dataset in self.datasets:
            dataset.close()

    def _check_ids(self, flat: np.ndarray, dataset: np.ndarray, window: np.ndarray) -> None:
        """Name the first token that an embedding could not look up: on a GPU that is an assertion without a place."""
        if self.vocab_size is None or (flat.max() < self.vocab_size and flat.min() >= 0):
            return
        row, column = np.argwhere((flat >= self.vocab_size) | (flat < 0))[0].tolist()
        source = self.datasets[dataset[row]]
        violation = Violation(
            path=f"{source.shards[0].prefix} (data set {dataset[row]})",
            value=f"token id {flat[row, column]}",
            rule=f"at token {int(window[row]) * source.seq_length + column} is not in the model's vocabulary of "
            f"{self.vocab_size}",
            fix="train with the tokenizer that made the shards, or with a larger model.vocab_size",
        )
        raise ConfigError([violation])


def _build_micro_batch(windows: torch.Tensor, *, is_real: torch.Tensor, ids: tuple[int, ...]) -> MicroBatch:
    """Split [b, s + 1] windows into inputs and labels."""
    tokens = windows[:, :-1].contiguous()
    return MicroBatch(
        tokens=tokens,
        labels=windows[:, 1:].contiguous(),
        loss_mask=is_real[:, None].expand_as(tokens).to(torch.float32),
        position_ids=torch.arange(tokens.shape[1]).expand_as(tokens).contiguous(),
        sample_ids=ids,
    )
