"""Micro batches of one data-parallel rank, read ahead in the background."""

from collections.abc import Sequence
from types import TracebackType

import numpy as np

from trainer.config.run import DatasetConfig
from trainer.data.micro_batch import DocumentConfig, MicroBatch, WindowReader
from trainer.data.mixture import Mixture, continue_mixture
from trainer.data.prefetch import Prefetcher
from trainer.data.sample_ranges import SampleRanges
from trainer.data.sampler import SampleOrder, sample_ids
from trainer.data.token_dataset import MAX_OPEN_FILES, TokenDataset
from trireme.errors import ConfigError, Violation, raise_if_any


class BatchLoader:
    """The steps of one data-parallel rank from consumed_samples on.

    Global sample g is the same window whatever the layout, so the rank, the number of ranks and the batch sizes may
    change whenever a run resumes. `with` closes it.

    Args:
        reader: reads windows of the mixture's data sets.
        order: which window each sample is.
        consumed_samples: first sample of the next step.
        global_batch_size: samples per step over all ranks; a multiple of dp_size * micro_batch_size.
        skipped_samples: samples that no step reads; those behind a skipped one move up.
        prefetch_steps: steps read ahead by a thread; 0 reads in `next_step` itself.
    """

    def __init__(
        self,
        reader: WindowReader,
        *,
        order: SampleOrder,
        consumed_samples: int,
        dp_rank: int,
        dp_size: int,
        micro_batch_size: int,
        global_batch_size: int,
        skipped_samples: SampleRanges,
        prefetch_steps: int,
    ) -> None:
        self.consumed_samples = consumed_samples
        """Samples of the global order that are behind, those that were left out included."""
        self.global_batch_size = global_batch_size
        self.skipped_samples = skipped_samples
        self._reader = reader
        self._order = order
        self._dp_rank, self._dp_size, self._micro_batch_size = dp_rank, dp_size, micro_batch_size
        self._num_microbatches = count_microbatches(global_batch_size, dp_size * micro_batch_size)
        self._prefetch_steps = prefetch_steps
        self._is_closed = False
        self._start_reading()

    @property
    def mixture(self) -> Mixture:
        """What a checkpoint keeps (`Mixture.to_record`) so that the next run may change data sets and weights."""
        return self._order.mixture

    def next_step(self) -> list[MicroBatch]:
        """Return this rank's micro batches of one optimizer step and move on behind its last sample.

        Raises:
            RunStopped: tokens could not be read, or a file is not what it was.
            ConfigError: a token id is not in the vocabulary.
            RuntimeError: the loader is closed.
        """
        if self._is_closed:
            raise RuntimeError("the loader is closed")
        step = self._prefetcher.get() if self._prefetcher else self._read_step()
        self.consumed_samples = self._end_of_step(self.consumed_samples)
        return step

    def seek(self, consumed_samples: int, *, skipped_samples: SampleRanges) -> None:
        """Go on from another place of the same mixture, and leave out these samples from there on."""
        if self._prefetcher:
            self._prefetcher.close()
        self.consumed_samples, self.skipped_samples = consumed_samples, skipped_samples
        self._start_reading()

    def close(self) -> None:
        """End the background thread and close the files; more calls do nothing."""
        if not self._is_closed:
            self._is_closed = True
            if self._prefetcher:
                self._prefetcher.close()
            self._reader.close()

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_reading(self) -> None:
        self._next_read = self.consumed_samples
        depth = self._prefetch_steps
        self._prefetcher = Prefetcher(self._read_step, depth=depth) if depth else None

    def _end_of_step(self, start: int) -> int:
        """The first sample behind a step that starts at `start`."""
        last = np.array([start + self.global_batch_size - 1])
        return 1 + int(self.skipped_samples.skip_ranges(last, start=start)[0])

    def _read_step(self) -> list[MicroBatch]:
        places = sample_ids(
            consumed_samples=self._next_read,
            dp_rank=self._dp_rank,
            dp_size=self._dp_size,
            micro_batch_size=self._micro_batch_size,
            num_microbatches=self._num_microbatches,
        )
        samples = self.skipped_samples.skip_ranges(places, start=self._next_read)
        locations = self._order.locate(samples.ravel())
        step = self._reader.read(samples, dataset=locations.dataset, window=locations.window)
        self._next_read = self._end_of_step(self._next_read)
        return step


def build_loader(
    configs: Sequence[DatasetConfig],
    *,
    seed: int,
    seq_length: int,
    dp_rank: int,
    dp_size: int,
    micro_batch_size: int,
    global_batch_size: int,
    consumed_samples: int = 0,
    prefetch_steps: int = 2,
    vocab_size: int | None = None,
    documents: DocumentConfig | None = None,
    former_mixture: Mixture | None = None,
    skipped_samples: SampleRanges | None = None,
) -> BatchLoader:
    """Open data sets and build the loader that goes on at consumed_samples.

    Args:
        configs: data sets of the blend.
        vocab_size: smallest token id that the model does not have; null does not check ids.
        documents: what the documents inside a window change.
        former_mixture: what the checkpoint that is resumed recorded; null where the mixture never changed.
        skipped_samples: samples of the former mixture that no step reads. Where the mixture changes, numbers from
            consumed_samples on are those of other samples, and nothing of them is left out.
    Raises:
        ConfigError: data sets that cannot be used (all their problems).
    """
    datasets = open_datasets(configs, seq_length=seq_length)
    mixture = continue_mixture(
        [dataset.identity for dataset in datasets],
        weights=[config.weight for config in configs],
        former=former_mixture,
        consumed_samples=consumed_samples,
    )
    skipped_samples = skipped_samples or SampleRanges()
    if former_mixture is not None and not mixture.draws_as(former_mixture):
        skipped_samples = skipped_samples.before(consumed_samples)
    return BatchLoader(
        WindowReader(datasets, vocab_size=vocab_size, documents=documents),
        order=SampleOrder(mixture, num_windows=[dataset.num_windows for dataset in datasets], seed=seed),
        consumed_samples=consumed_samples,
        dp_rank=dp_rank,
        dp_size=dp_size,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        skipped_samples=skipped_samples,
        prefetch_steps=prefetch_steps,
    )


def open_datasets(configs: Sequence[DatasetConfig], *, seq_length: int) -> list[TokenDataset]:
    """Open all data sets of a blend, which share the number of files that stay open.

    Raises:
        ConfigError: the problems of every data set that cannot be used.
    """
    datasets: list[TokenDataset] = []
    violations: list[Violation] = []
    max_open_files = max(1, MAX_OPEN_FILES // len(configs))
    for config in configs:
        try:
            datasets.append(TokenDataset(config.paths, seq_length=seq_length, max_open_files=max_open_files))
        except ConfigError as error:
            violations += error.violations
    raise_if_any(violations)
    return datasets


def count_microbatches(global_batch_size: int, sequences_per_pass: int) -> int:
    """Count the forward passes of a step; sequences_per_pass is dp_size * micro_batch_size."""
    if global_batch_size % sequences_per_pass:
        raise ValueError(f"a global batch of {global_batch_size} is no multiple of {sequences_per_pass} sequences")
    return global_batch_size // sequences_per_pass
