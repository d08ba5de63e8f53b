"""Load the validation set: the same windows in every validation, under every layout."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.config.run import DatasetConfig
from trainer.data.labelled_rows import LabelledRowReader, RowsConfig
from trainer.data.loader import count_microbatches, open_source
from trainer.data.micro_batch import PADDING, DocumentConfig, MicroBatch, WindowReader
from trainer.data.mixture import DatasetIdentity, continue_mixture
from trainer.data.sampler import SampleLocations, SampleOrder, sample_ids
from trireme.progress import format_number

VALIDATION_SEED = 0
"""Not the run's seed: runs with different seeds are validated on the same windows."""

_DIGITS = 16
logger = logging.getLogger(__name__)


class ValidationLoader:
    """Load the steps over a fixed list of windows, the same in every pass.

    The windows are the first eval_iters * global_batch_size samples of the blend, in the order of epoch 0, or all that
    there are. No window is used twice: if the data sets have fewer windows, each counts once, and the last step is
    padded with sequences of loss mask 0. So the token-weighted mean over a pass is the exact mean over the windows,
    while every rank takes part in the same number of forward passes.
    """

    def __init__(
        self,
        reader: WindowReader | LabelledRowReader,
        *,
        locations: SampleLocations,
        identities: Sequence[DatasetIdentity] = (),
        dp_rank: int,
        dp_size: int,
        micro_batch_size: int,
        global_batch_size: int,
    ) -> None:
        self.num_windows = len(locations.window)
        self.num_steps = -(-self.num_windows // global_batch_size)
        self.reader = reader
        self.locations = locations
        """Of each sample of a pass, by its number."""
        self.digest = _digest(identities, locations)
        """The same for equal windows of equal data sets: only then two validations can be compared."""
        self._dp_rank, self._dp_size, self._micro_batch_size = dp_rank, dp_size, micro_batch_size
        self._global_batch_size = global_batch_size
        self._num_microbatches = count_microbatches(global_batch_size, dp_size * micro_batch_size)

    def steps(self) -> Iterator[list[MicroBatch]]:
        """Yield this rank's micro batches, one global batch after the other."""
        for step in range(self.num_steps):
            samples = sample_ids(
                consumed_samples=step * self._global_batch_size,
                dp_rank=self._dp_rank,
                dp_size=self._dp_size,
                micro_batch_size=self._micro_batch_size,
                num_microbatches=self._num_microbatches,
            )
            is_real = samples < self.num_windows
            places = np.where(is_real, samples, 0).ravel()
            yield self.reader.read(
                np.where(is_real, samples, PADDING),
                dataset=self.locations.dataset[places],
                window=self.locations.window[places],
            )

    def close(self) -> None:
        """Close the files."""
        self.reader.close()


def build_validation_loader(
    configs: Sequence[DatasetConfig],
    *,
    seq_length: int,
    dp_rank: int,
    dp_size: int,
    micro_batch_size: int,
    global_batch_size: int,
    eval_iters: int | None,
    vocab_size: int | None = None,
    documents: DocumentConfig | None = None,
    transform: Callable[[MicroBatch], MicroBatch] | None = None,
    rows: RowsConfig | None = None,
) -> ValidationLoader:
    """Open data sets and choose the windows of every validation.

    Args and errors are those of `build_loader`; every validation reads the same windows.

    Raises:
        ConfigError: data sets cannot be used (all their errors).
    """
    source = open_source(
        configs, seq_length=seq_length, vocab_size=vocab_size, documents=documents, transform=transform, rows=rows
    )
    datasets = source.datasets
    mixture = continue_mixture(
        [dataset.identity for dataset in datasets],
        weights=[config.weight for config in configs],
        former=None,
        consumed_samples=0,
    )
    order = SampleOrder(mixture, num_windows=[dataset.num_windows for dataset in datasets], seed=VALIDATION_SEED)
    if eval_iters is None:
        locations = _locate_all([dataset.num_windows for dataset in datasets])
    else:
        locations = order.locate(order.first_epoch_only(np.arange(eval_iters * global_batch_size)))
    num_windows = len(locations.window)
    if eval_iters is not None and num_windows < eval_iters * global_batch_size:
        logger.warning(
            "Validation uses %s of %d tokens, each once: the data sets have fewer than the %d that "
            "training.eval_iters=%d requires.",
            format_number(num_windows, "window" if rows is None else "row"),
            seq_length,
            eval_iters * global_batch_size,
            eval_iters,
        )
    return ValidationLoader(
        source,
        locations=locations,
        identities=[dataset.identity for dataset in datasets],
        dp_rank=dp_rank,
        dp_size=dp_size,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
    )


def _digest(identities: Sequence[DatasetIdentity], locations: SampleLocations) -> str:
    known = hashlib.sha256(json.dumps([one.checksum or one.content for one in identities]).encode())
    for numbers in (locations.dataset, locations.window):
        known.update(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
    return known.hexdigest()[:_DIGITS]


def _locate_all(num_windows: Sequence[int]) -> SampleLocations:
    """Locate every window of every data set once, in order."""
    windows = np.concatenate([np.arange(count) for count in num_windows])
    dataset = np.repeat(np.arange(len(num_windows)), num_windows)
    return SampleLocations(dataset=dataset, epoch=np.zeros_like(windows), window=windows)
