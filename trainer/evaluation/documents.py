"""Attribute the losses of a validation to documents, and sum them up by source and language.

b: sequences of a micro batch, s: tokens of a sequence.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import distributed

from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.data.sampler import SampleLocations
from trainer.data.token_dataset import TokenDataset
from trainer.inference.token_text import token_bytes
from trainer.model.sequence_exchange import slice_for_context_parallel
from trainer.scores.bootstrap import ratio_interval
from trireme.shards.document_table import DOCUMENTS_SUFFIX
from trireme.shards.shard import shard_file
from trireme.tokenizer.tokenizer import Tokenizer

_SEED = 0
_LOGGER = logging.getLogger(__name__)


def count_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Return how many bytes of text each token stands for: [vocab_size] int64; special tokens have none."""
    special = set(tokenizer.special_tokens.values())
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for token in range(tokenizer.vocab_size):
        if token in special:
            continue
        name = tokenizer.token_name(token) or ""
        if "\u2581" in name and token not in tokenizer.byte_ids:
            # Decoding drops the space of a piece that begins a text.
            counts[token] = len(name.replace("\u2581", " ").encode())
        else:
            counts[token] = len(token_bytes(token, tokenizer))
    return counts


@dataclass(frozen=True, kw_only=True)
class DocumentSums:
    """Hold sums over the target tokens of each document that has any; n documents, in the order of the data sets."""

    losses: np.ndarray
    """[n] float64, in nats."""
    tokens: np.ndarray
    """[n] float64."""
    bytes: np.ndarray
    """[n] int64: of the text that the target tokens stand for."""
    sources: list[str]
    """Of each document; empty where its shard has no table."""
    languages: list[str]

    def select(self, chosen: np.ndarray) -> "DocumentSums":
        """Return some of the documents, by index."""
        return DocumentSums(
            losses=self.losses[chosen],
            tokens=self.tokens[chosen],
            bytes=self.bytes[chosen],
            sources=[self.sources[number] for number in chosen],
            languages=[self.languages[number] for number in chosen],
        )


class DocumentLosses:
    """Collect the losses of a validation by document; all ranks use it.

    A window's target belongs to the document that contains it, also where the window begins inside one.

    Args:
        datasets: of the validation.
        locations: of its samples.
        num_bytes: of each token, see `count_bytes`.
        is_collecting: whether this rank's losses count: False where another rank has copies of them.
        cp_rank, cp_size: this rank's part of each sequence.
    """

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        *,
        locations: SampleLocations,
        num_bytes: np.ndarray,
        is_collecting: bool,
        cp_rank: int = 0,
        cp_size: int = 1,
    ) -> None:
        self._datasets, self._locations = datasets, locations
        self._num_bytes, self._is_collecting = num_bytes, is_collecting
        self._cp_rank, self._cp_size = cp_rank, cp_size
        self._starts = [_document_starts(dataset) for dataset in datasets]
        self._sums = [np.zeros((len(starts), 3)) for starts in self._starts]
        """Of each data set: losses, tokens and bytes of each document."""

    def observe(self, losses: torch.Tensor, batch: MicroBatch) -> None:
        """Add the losses [b, s] of one micro batch."""
        if not self._is_collecting:
            return
        whole = torch.arange(losses.shape[1] * self._cp_size)[None]
        columns = slice_for_context_parallel(whole, cp_rank=self._cp_rank, cp_size=self._cp_size)[0].numpy()
        weights = batch.loss_mask.double().cpu().numpy()
        values = losses.double().cpu().numpy() * weights
        labels = batch.labels.cpu().numpy()
        for row, sample in enumerate(batch.sample_ids):
            if sample == PADDING:
                continue
            dataset = int(self._locations.dataset[sample])
            first = int(self._locations.window[sample]) * self._datasets[dataset].seq_length
            # The label of position i is token i + 1 of the window.
            documents = np.searchsorted(self._starts[dataset], first + columns + 1, side="right") - 1
            sums = self._sums[dataset]
            # The loss of a token without weight may not be finite.
            counts = weights[row] > 0
            for column, amounts in enumerate((values[row], weights[row], self._bytes_of(labels[row]))):
                np.add.at(sums[:, column], documents[counts], amounts[counts])

    def _bytes_of(self, labels: np.ndarray) -> np.ndarray:
        known = np.clip(labels, 0, len(self._num_bytes) - 1)
        return np.where(known == labels, self._num_bytes[known], 0)

    def gather(self) -> DocumentSums:
        """Return the sums over all ranks, the same on every rank; all ranks call this."""
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, self._sums)
        parts, sources, languages = [], [], []
        for number, dataset in enumerate(self._datasets):
            total = sum((part[number] for part in gathered), start=np.zeros_like(self._sums[number]))
            used = np.flatnonzero(total[:, 1])
            parts.append(total[used])
            origins = _read_origins(dataset)
            sources += [origins[0][document] for document in used]
            languages += [origins[1][document] for document in used]
        table = np.concatenate(parts)
        return DocumentSums(
            losses=table[:, 0],
            tokens=table[:, 1],
            bytes=table[:, 2].astype(np.int64),
            sources=sources,
            languages=languages,
        )


def _document_starts(dataset: TokenDataset) -> np.ndarray:
    """Return the first token of each document in the concatenated shards: [documents] int64."""
    starts, offset = [], 0
    for shard in dataset.shards:
        starts.append(np.asarray(shard.document_offsets)[: shard.num_documents].astype(np.int64) + offset)
        offset += shard.num_tokens
    return np.concatenate(starts)


def _read_origins(dataset: TokenDataset) -> tuple[list[str], list[str]]:
    """Return source and language of every document; empty texts for a shard without a table."""
    sources: list[str] = []
    languages: list[str] = []
    for shard in dataset.shards:
        path = shard_file(shard.prefix, DOCUMENTS_SUFFIX)
        columns: Mapping[str, list[str]] = {}
        if path.is_file():
            try:
                file = pq.ParquetFile(path)
                names = [name for name in ("source", "language") if name in file.schema_arrow.names]
                columns = file.read(columns=names).to_pydict()
            except (OSError, ValueError) as error:
                _LOGGER.warning("%s cannot be read: %s. Its documents have no source.", path, error)
        for known, name in ((sources, "source"), (languages, "language")):
            values = columns.get(name, [])
            known += values if len(values) == shard.num_documents else [""] * shard.num_documents
    return sources, languages


def describe_documents(sums: DocumentSums) -> dict[str, Any]:
    """Return the figures of a validation by document.

    Returns:
        bits_per_byte, num_bytes, num_documents and confidence_95 of all documents, and the same with loss, perplexity
        and num_tokens in by_source and by_language, where documents have these; an interval that cannot be estimated,
        and a figure that is not finite, is None.
    """
    figures = _figures(sums)
    result = {name: figures[name] for name in ("bits_per_byte", "num_bytes", "num_documents", "confidence_95")}
    for name, values in (("by_source", sums.sources), ("by_language", sums.languages)):
        keys = np.array(values)
        groups = sorted(set(values))
        if groups and groups != [""]:
            result[name] = {
                group or "unknown": _figures(sums.select(np.flatnonzero(keys == group))) for group in groups
            }
    return result


def _figures(sums: DocumentSums) -> dict[str, Any]:
    loss = float(sums.losses.sum() / sums.tokens.sum())
    num_bytes = int(sums.bytes.sum())
    interval = ratio_interval(sums.losses, sums.tokens, seed=_SEED)
    bits = np.array(sums.losses) / math.log(2)
    per_byte = float(bits.sum() / num_bytes) if num_bytes else math.nan
    per_byte_interval = (
        ratio_interval(bits, sums.bytes.astype(np.float64), seed=_SEED) if num_bytes else (math.nan, math.nan)
    )
    return {
        "loss": _finite(loss),
        "perplexity": _exp(loss),
        "bits_per_byte": _finite(per_byte),
        "num_tokens": round(float(sums.tokens.sum())),
        "num_bytes": num_bytes,
        "num_documents": len(sums.losses),
        "confidence_95": {
            "loss": [_finite(value) for value in interval],
            "perplexity": [_exp(value) for value in interval],
            "bits_per_byte": [_finite(value) for value in per_byte_interval],
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _exp(value: float) -> float | None:
    try:
        return _finite(math.exp(value))
    except OverflowError:
        return None
