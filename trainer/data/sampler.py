"""Map steps to samples, and samples to windows of data sets, by pure functions.

Global sample numbers count from the start of the run. Their order depends on the data alone; the layout only decides
which rank reads which number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.blend import Blend
from trainer.data.mixture import Mixture
from trainer.data.permutation import derive_key, find_places, permute


def sample_ids(
    *, consumed_samples: int, dp_rank: int, dp_size: int, micro_batch_size: int, num_microbatches: int
) -> np.ndarray:
    """Return the numbers of the samples that a data-parallel rank reads in the step that starts at consumed_samples.

    Returns:
        [num_microbatches, micro_batch_size] int64: row m is the rank's m-th micro batch.
    """
    first = np.arange(num_microbatches) * dp_size + dp_rank
    return consumed_samples + first[:, None] * micro_batch_size + np.arange(micro_batch_size)


@dataclass(frozen=True)
class SampleLocations:
    """Hold the locations of n samples."""

    dataset: np.ndarray
    """[n] int64: number of the data set in the configuration."""
    epoch: np.ndarray
    """[n] int64: how many times the whole data set was drawn before."""
    window: np.ndarray
    """[n] int64: window of the data set."""


class SampleOrder:
    """Compute the order of all samples of a run from a few numbers per data set, without a table of samples.

    Args:
        mixture: data sets and weights.
        num_windows: windows of each active data set.
        seed: determines the order.
    """

    def __init__(self, mixture: Mixture, *, num_windows: Sequence[int], seed: int) -> None:
        self.mixture = mixture
        self.num_windows = np.array(num_windows, dtype=np.int64)
        self.seed = seed
        self._blend = Blend([entry.weight for entry in mixture.active])
        self._drawn_before = np.array([entry.drawn for entry in mixture.active], dtype=np.int64)

    def locate(self, samples: np.ndarray) -> SampleLocations:
        """Locate samples in their data sets.

        Args:
            samples: [n] int64 global sample numbers.
        Raises:
            ValueError: a sample was drawn before the mixture last changed.
        """
        dataset, epoch, place = self._place(samples)
        window = np.empty_like(place)
        for d, e in np.unique(np.stack([dataset, epoch]), axis=1).T.tolist():
            here = (dataset == d) & (epoch == e)
            key = derive_key(seed=self.seed, stream=self.mixture.active[d].stream, epoch=e)
            window[here] = permute(place[here], size=int(self.num_windows[d]), key=key)
        return SampleLocations(dataset, epoch, window)

    def find_samples(self, dataset: int, windows: np.ndarray, *, first: int, end: int) -> np.ndarray:
        """Return the samples from `first` to `end` - 1 that have one of these windows of a data set, ascending.

        Args:
            windows: [n] int64.
            first, end: global sample numbers; `first` is not before the mixture.
        """
        size, offset = int(self.num_windows[dataset]), self.mixture.first_sample
        before = int(self._drawn_before[dataset])
        drawn_first, drawn_end = (before + self._blend.counts(limit - offset)[dataset] for limit in (first, end))
        found = []
        for epoch in range(drawn_first // size, -(-drawn_end // size)):
            key = derive_key(seed=self.seed, stream=self.mixture.active[dataset].stream, epoch=epoch)
            drawn = epoch * size + find_places(windows, size=size, key=key)
            for one in drawn[(drawn_first <= drawn) & (drawn < drawn_end)].tolist():
                found.append(offset + self._blend.find(dataset, one - before))
        return np.array(sorted(found), dtype=np.int64)

    def first_epoch_only(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples whose window no earlier sample of the run has."""
        _, epoch, _ = self._place(samples)
        return samples[epoch == 0]

    def _place(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find data set, epoch, and place in the epoch's shuffled order."""
        if samples.size and samples.min() < self.mixture.first_sample:
            raise ValueError(f"sample {samples.min()} is older than this mixture ({self.mixture.first_sample})")
        places = self._blend.locate(samples - self.mixture.first_sample)
        drawn = self._drawn_before[places.dataset] + places.local
        epoch, place = np.divmod(drawn, self.num_windows[places.dataset])
        return places.dataset, epoch, place
