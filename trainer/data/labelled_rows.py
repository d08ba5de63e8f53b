"""Read rows of examples as micro batches. b: sequences, s: tokens of a row.

Rows come from `trireme prepare-examples`; `trireme.shards.examples` describes their shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from trainer.data.identity import join_identities
from trainer.data.micro_batch import PADDING, MicroBatch, find_foreign_token
from trainer.data.mixture import DatasetIdentity
from trainer.data.reference_losses import ReferenceLosses
from trainer.data.token_dataset import MAX_OPEN_FILES, TokenDataset
from trireme.errors import ConfigError, Violation
from trireme.shards.examples import LABELS_SUFFIX, NO_LABEL, TOKEN_TYPES_SUFFIX, Task, decode_labels
from trireme.shards.shard import shard_file


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Configure how rows become micro batches."""

    task: Task
    class_weights: tuple[float, ...] = ()
    """Loss weight of each class or tag; empty weighs all alike."""
    reference_key: str | None = None
    """Of dpo: names the reference model whose losses lie beside the rows; None reads none."""
    has_token_types: bool = False
    """Whether the model tells segments of a text apart; otherwise token types beside the rows are not read."""


class RowDataset:
    """Read the rows of one data set of a blend: tokens, labels and what else lies beside them.

    Raises:
        ConfigError: shards cannot be used, or tokens and labels do not have the same number of rows.
    """

    def __init__(
        self,
        prefixes: Sequence[str | Path],
        *,
        seq_length: int,
        reference_key: str | None = None,
        has_token_types: bool = False,
        max_open_files: int = MAX_OPEN_FILES,
    ) -> None:
        def beside(suffix: str) -> TokenDataset:
            names = [f"{prefix}{suffix}" for prefix in prefixes]
            return TokenDataset(names, seq_length=seq_length, max_open_files=max_open_files, overlap=0)

        self.tokens, self.labels = beside(""), beside(LABELS_SUFFIX)
        are_there = [shard_file(prefix, f"{TOKEN_TYPES_SUFFIX}.bin").is_file() for prefix in prefixes]
        self.token_types = beside(TOKEN_TYPES_SUFFIX) if has_token_types and all(are_there) else None
        self.reference = (
            ReferenceLosses(prefixes, key=reference_key, seq_length=seq_length) if reference_key is not None else None
        )
        if self.tokens.num_tokens != self.labels.num_tokens or self.tokens.num_tokens % seq_length:
            message = f"must hold rows of model.seq_length={seq_length} tokens with a label each"
            value = f"{self.tokens.num_tokens} tokens, {self.labels.num_tokens} labels"
            fix = "Use the seq_length that the examples were prepared with, or prepare them again."
            raise ConfigError([Violation(path=", ".join(map(str, prefixes)), value=value, message=message, fix=fix)])

    @property
    def seq_length(self) -> int:
        """Tokens of a row."""
        return self.tokens.seq_length

    @property
    def num_windows(self) -> int:
        """Number of rows."""
        return self.tokens.num_windows

    @cached_property
    def identity(self) -> DatasetIdentity:
        """Identity of tokens and labels together: other labels are other data."""
        return join_identities([self.tokens.identity, self.labels.identity])

    def close(self) -> None:
        """Close the files."""
        for dataset in (self.tokens, self.labels, self.token_types):
            if dataset is not None:
                dataset.close()


class LabelledRowReader:
    """Read rows of several data sets as micro batches; the counterpart of `WindowReader` for examples.

    Args:
        datasets: in the order of the configuration, all with the same seq_length.
        config: how labels are read.
        vocab_size: number of token ids of the model; None does not check ids.
    """

    def __init__(self, datasets: Sequence[RowDataset], *, config: RowsConfig, vocab_size: int | None = None) -> None:
        self.datasets = datasets
        self.config = config
        self.vocab_size = vocab_size

    def read(self, samples: np.ndarray, *, dataset: np.ndarray, window: np.ndarray) -> list[MicroBatch]:
        """Read samples.

        Args:
            samples: [m, b] int64 sample numbers, PADDING for padding.
            dataset: [m * b] data set of each sample; ignored for PADDING.
            window: [m * b] row of each sample; ignored for PADDING.
        Returns:
            m micro batches.
        """
        is_real = samples.ravel() != PADDING
        shape = (samples.size, self.datasets[0].seq_length)
        tokens, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        codes = np.full(shape, NO_LABEL, dtype=np.int64)
        reference = np.zeros(shape, dtype=np.float32)
        for d, source in enumerate(self.datasets):
            rows = np.flatnonzero(is_real & (dataset == d))
            source.tokens.read_windows(window[rows], out=tokens, rows=rows)
            source.labels.read_windows(window[rows], out=codes, rows=rows)
            if source.token_types is not None:
                source.token_types.read_windows(window[rows], out=types, rows=rows)
            if source.reference is not None:
                source.reference.read_rows(window[rows], out=reference, rows_of_out=rows)
        self._check_ids(tokens, dataset, window)
        has_types = any(source.token_types is not None for source in self.datasets)
        has_reference = any(source.reference is not None for source in self.datasets)
        batches = []
        for m, row in enumerate(samples.tolist()):
            part = slice(m * len(row), (m + 1) * len(row))
            batch = build_labelled_batch(
                torch.from_numpy(tokens[part]), codes[part], sample_ids=tuple(row), config=self.config
            )
            if has_types:
                batch = replace(batch, token_types=torch.from_numpy(types[part]))
            if has_reference:
                batch = replace(batch, reference_losses=torch.from_numpy(reference[part]))
            batches.append(batch)
        return batches

    def close(self) -> None:
        """Close all files."""
        for dataset in self.datasets:
            dataset.close()

    def _check_ids(self, tokens: np.ndarray, dataset: np.ndarray, window: np.ndarray) -> None:
        """Report the first token that is not in the embedding."""
        place = find_foreign_token(tokens, vocab_size=self.vocab_size)
        if place is None:
            return
        row, column = place
        prefix = self.datasets[dataset[row]].tokens.shards[0].prefix
        violation = Violation(
            path=f"{prefix} (data set {dataset[row]})",
            value=f"token id {tokens[row, column]}",
            message=f"token {column} of row {int(window[row])} is outside of the model's vocabulary of"
            f" {self.vocab_size}",
            fix="Prepare the examples with the model's tokenizer.",
        )
        raise ConfigError([violation])


def build_labelled_batch(
    tokens: torch.Tensor, codes: np.ndarray, *, sample_ids: tuple[int, ...], config: RowsConfig
) -> MicroBatch:
    """Turn rows and their codes into a micro batch, with positions that restart in each document.

    Args:
        tokens: [b, s] int64.
        codes: [b, s] integers of the labels' shard.
    """
    values, is_start = decode_labels(codes)
    labels, starts = torch.from_numpy(values), torch.from_numpy(is_start)
    is_target = labels != NO_LABEL
    if config.task == "qa":  # one target a document: places of the answer's first and last token
        is_target = is_target & starts
    positions = torch.arange(tokens.shape[1], dtype=torch.int32)
    first = torch.where(starts, positions, 0).cummax(dim=1).values.to(torch.int32)
    labels = labels.clamp(min=0)
    mask = is_target.to(torch.float32)
    if config.class_weights:
        weights = torch.tensor(config.class_weights, dtype=torch.float32)
        mask = mask * weights[labels.clamp(max=len(weights) - 1)]
    return MicroBatch(
        tokens=tokens,
        labels=labels,
        loss_mask=mask,
        position_ids=(positions - first).to(torch.int64),
        document_starts=first,
        sample_ids=sample_ids,
    )
