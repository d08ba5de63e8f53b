"""Load the micro batches of one data-parallel rank, prefetched in the background."""

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TypeVar

import numpy as np

from trainer.config.run import DatasetConfig
from trainer.data.labelled_rows import LabelledRowReader, RowDataset, RowsConfig
from trainer.data.micro_batch import DocumentConfig, MicroBatch, WindowReader
from trainer.data.mixture import Mixture, continue_mixture
from trainer.data.prefetch import Prefetcher
from trainer.data.sample_ranges import SampleRanges
from trainer.data.sampler import SampleOrder, sample_ids
from trainer.data.token_dataset import MAX_OPEN_FILES, TokenDataset
from trireme.errors import ConfigError, Violation, raise_if_any


class BatchLoader:
    """Load the steps of one data-parallel rank from consumed_samples on.

    Global sample g is the same window under every layout, so the rank, the number of ranks and the batch sizes may
    change whenever a run resumes. `with` closes it.

    Args:
        reader: reads windows, or rows of examples, of the mixture's data sets.
        order: maps each sample to its window.
        consumed_samples: first sample of the next step.
        global_batch_size: samples per step over all ranks; a multiple of dp_size * micro_batch_size.
        skipped_samples: samples that no step reads; those after a skipped one move up.
        prefetch_steps: steps prefetched by a thread; 0 reads in `next_step` itself.
    """

    def __init__(
        self,
        reader: WindowReader | LabelledRowReader,
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
        """Samples of the global order that are consumed, including the skipped ones."""
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
        """The mixture, which a checkpoint stores, so that the next start may change data sets and weights."""
        return self._order.mixture

    def next_step(self) -> list[MicroBatch]:
        """Return this rank's micro batches of the next optimizer step and advance past its last sample.

        Raises:
            RunStopped: tokens could not be read, or a file has changed.
            ConfigError: a token id is not in the vocabulary.
            RuntimeError: the loader is closed.
        """
        if self._is_closed:
            raise RuntimeError("the loader is closed")
        step = self._prefetcher.get() if self._prefetcher else self._read_step()
        self.consumed_samples = self._end_of_step(self.consumed_samples)
        return step

    def seek(self, consumed_samples: int, *, skipped_samples: SampleRanges) -> None:
        """Continue at another sample of the same mixture, and skip these samples from there on."""
        if self._prefetcher:
            self._prefetcher.close()
        self.consumed_samples, self.skipped_samples = consumed_samples, skipped_samples
        self._start_reading()

    def close(self) -> None:
        """Stop the background thread and close the files; further calls do nothing."""
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
        """Return the first sample after a step that starts at `start`."""
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
    transform: Callable[[MicroBatch], MicroBatch] | None = None,
    rows: RowsConfig | None = None,
    former_mixture: Mixture | None = None,
    skipped_samples: SampleRanges | None = None,
) -> BatchLoader:
    """Open data sets and build the loader that continues at consumed_samples.

    Args:
        configs: data sets of the blend.
        vocab_size: number of token ids of the model; None does not check ids.
        documents: how documents inside a window are treated.
        transform: see `WindowReader`.
        rows: the data sets are rows of examples, read so; documents and transform have no effect.
        former_mixture: the mixture that the resumed checkpoint recorded; None if it never changed.
        skipped_samples: samples of the former mixture that no step reads. If the mixture changes, numbers from
            consumed_samples on are those of other samples, of which none is skipped.
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
        former=former_mixture,
        consumed_samples=consumed_samples,
    )
    skipped_samples = skipped_samples or SampleRanges()
    if former_mixture is not None and not mixture.draws_as(former_mixture):
        skipped_samples = skipped_samples.before(consumed_samples)
    return BatchLoader(
        source,
        order=SampleOrder(mixture, num_windows=[dataset.num_windows for dataset in datasets], seed=seed),
        consumed_samples=consumed_samples,
        dp_rank=dp_rank,
        dp_size=dp_size,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        skipped_samples=skipped_samples,
        prefetch_steps=prefetch_steps,
    )


def open_source(
    configs: Sequence[DatasetConfig],
    *,
    seq_length: int,
    vocab_size: int | None,
    documents: DocumentConfig | None,
    transform: Callable[[MicroBatch], MicroBatch] | None,
    rows: RowsConfig | None,
) -> WindowReader | LabelledRowReader:
    """Open all data sets of a blend, which share the limit of open files; arguments are those of `build_loader`.

    Raises:
        ConfigError: data sets cannot be used (all their errors).
    """
    if rows is not None:
        open_rows = partial(
            RowDataset,
            seq_length=seq_length,
            reference_key=rows.reference_key,
            has_token_types=rows.has_token_types,
        )
        return LabelledRowReader(_open_all(configs, open_rows), config=rows, vocab_size=vocab_size)
    datasets = _open_all(configs, partial(TokenDataset, seq_length=seq_length))
    return WindowReader(datasets, vocab_size=vocab_size, documents=documents, transform=transform)


T = TypeVar("T")


def _open_all(configs: Sequence[DatasetConfig], open_one: Callable[..., T]) -> list[T]:
    datasets: list[T] = []
    violations: list[Violation] = []
    max_open_files = max(1, MAX_OPEN_FILES // len(configs))
    for config in configs:
        try:
            datasets.append(open_one(config.paths, max_open_files=max_open_files))
        except ConfigError as error:
            violations += error.violations
    raise_if_any(violations)
    return datasets


def count_microbatches(global_batch_size: int, sequences_per_pass: int) -> int:
    """Return the number of forward passes of a step; sequences_per_pass is dp_size * micro_batch_size."""
    if global_batch_size % sequences_per_pass:
        raise ValueError(f"a global batch of {global_batch_size} is not a multiple of {sequences_per_pass} sequences")
    return global_batch_size // sequences_per_pass
