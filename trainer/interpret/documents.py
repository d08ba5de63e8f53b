"""Find the training documents that share the most n-grams with a text, in shards.

n: tokens of an n-gram, t: tokens of a part of a shard.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trireme.shards.document_table import read_origins
from trireme.shards.shard import ShardReader

_PART = 1 << 24
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class NearDocument:
    """Hold a document that shares n-grams with the text."""

    shard: str
    """Prefix."""
    number: int
    """Of the document in the shard, from 0."""
    score: float
    """Sum of ln(documents / documents with the n-gram) over the distinct n-grams that are shared."""
    num_shared: int
    """Distinct n-grams that are shared."""
    longest: int
    """Tokens of the longest passage that is shared, at its first place."""
    place: int
    """First token of this passage, in the document."""
    tokens: tuple[int, ...]
    """The passage with some tokens before and after it."""
    num_before: int
    """How many of these tokens are before the passage."""
    origin: dict[str, Any] | None = None
    """Row of the document table: source, file, record, id, url, title; None if the shard has no table."""
    steps: tuple[int, ...] | None = None
    """Steps of the run that were trained on tokens of it; None if they are not known."""


@dataclass(frozen=True, kw_only=True)
class NearDocuments:
    """Hold the result of a search."""

    ngram: int
    num_ngrams: int
    """Distinct n-grams of the text."""
    num_documents: int
    """Documents that were searched."""
    num_tokens: int
    is_complete: bool
    """False if the limit of tokens ended the search before the last shard."""
    documents: tuple[NearDocument, ...]
    """By score, highest first."""


def find_near_documents(
    prefixes: Sequence[str],
    tokens: Sequence[int],
    *,
    ngram: int,
    num_documents: int,
    max_tokens: int,
    num_context: int = 24,
    show: Callable[[int], object] = lambda num_tokens: None,
) -> NearDocuments:
    """Search shards for the documents that share the rarest n-grams with a text.

    It compares tokens and not meaning, and cannot tell whether a document caused what the model does.

    Args:
        prefixes: of shards, made with the model's tokenizer.
        tokens: the text; a shorter one than `ngram` is one n-gram.
        num_documents: at most.
        max_tokens: of shards, in their order; whole shards.
        num_context: tokens before and after the passage of each document.
        show: receives the number of tokens that were searched.
    """
    ngram = max(1, min(ngram, len(tokens)))
    wanted = np.array(sorted({tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)}), dtype=np.int64)
    hashes = _hash(wanted)
    order = np.argsort(hashes)
    wanted, hashes = wanted[order], hashes[order]
    shared: dict[tuple[int, int], set[int]] = defaultdict(set)
    total_documents = total_tokens = num_searched = 0
    for number, prefix in enumerate(prefixes):
        if total_tokens and total_tokens + ShardReader(prefix).num_tokens > max_tokens:
            break
        reader = ShardReader(prefix)
        _search(reader, wanted, hashes, into=lambda pair, number=number: shared[number, pair[0]].add(pair[1]))  # type: ignore[misc]
        total_documents += reader.num_documents
        total_tokens += reader.num_tokens
        num_searched += 1
        reader.release()
        show(total_tokens)
    frequency = np.zeros(len(wanted), dtype=np.int64)
    for grams in shared.values():
        frequency[list(grams)] += 1
    weights = np.array([math.log((total_documents + 1) / count) if count else 0.0 for count in frequency])
    scores = {place: float(sum(weights[gram] for gram in grams)) for place, grams in shared.items()}
    # The best ones, and some more, among which longer passages come first.
    best = sorted(scores, key=lambda place: (-scores[place], place))[: 4 * num_documents]
    found = [
        _describe(
            prefixes[number],
            document,
            tokens,
            score=scores[number, document],
            grams=shared[number, document],
            ngram=ngram,
            num_context=num_context,
        )
        for number, document in best
    ]
    found.sort(key=lambda near: (-near.score, -near.longest, near.shard, near.number))
    found = found[:num_documents]
    origins = read_origins((near.shard, near.number) for near in found)
    return NearDocuments(
        ngram=ngram,
        num_ngrams=len(wanted),
        num_documents=total_documents,
        num_tokens=total_tokens,
        is_complete=num_searched == len(prefixes),
        documents=tuple(
            replace(near, origin=origin.describe() if (origin := origins[near.shard, near.number]) else None)
            for near in found
        ),
    )


def _hash(ngrams: np.ndarray) -> np.ndarray:
    """Return [k] uint64 of [k, n] integers; equal n-grams have equal hashes, and few others do."""
    result = np.zeros(len(ngrams), dtype=np.uint64)
    for column in ngrams.T.astype(np.uint64):
        result = (result ^ column) * _HASH_FACTOR
        result ^= result >> np.uint64(29)
    return result


def _search(
    reader: ShardReader, wanted: np.ndarray, hashes: np.ndarray, *, into: Callable[[tuple[int, int]], object]
) -> None:
    """Report each (document, n-gram) of a shard once or more; n-grams over the end of a document do not count."""
    offsets, ngram = reader.document_offsets, wanted.shape[1]
    for first in range(0, reader.num_tokens, _PART):
        part = np.asarray(reader.tokens[first : first + _PART + ngram - 1])
        if len(part) < ngram:
            break
        windows = np.lib.stride_tricks.sliding_window_view(part, ngram)
        # Most windows are excluded by their first token.
        candidates = np.flatnonzero(np.isin(windows[:, 0], np.unique(wanted[:, 0])))
        if ngram > 1:
            candidates = candidates[np.isin(windows[candidates, 1], np.unique(wanted[:, 1]))]
        found = windows[candidates].astype(np.int64)
        where = np.minimum(np.searchsorted(hashes, _hash(found)), len(hashes) - 1)
        is_equal = (wanted[where] == found).all(axis=1)
        places = first + candidates[is_equal]
        documents = np.searchsorted(offsets, places, side="right") - 1
        is_inside = places + ngram <= offsets[documents + 1]
        pairs = np.stack([documents[is_inside], where[is_equal][is_inside]], axis=1)
        for document, gram in np.unique(pairs, axis=0).tolist():
            into((document, gram))


def _describe(
    prefix: str,
    document: int,
    tokens: Sequence[int],
    *,
    score: float,
    grams: set[int],
    ngram: int,
    num_context: int,
) -> NearDocument:
    reader = ShardReader(prefix)
    text = np.asarray(reader.document(document)).astype(np.int64)
    reader.release()
    place, longest = _longest_common(text, np.array(tokens, dtype=np.int64))
    before = min(num_context, place)
    return NearDocument(
        shard=prefix,
        number=document,
        score=score,
        num_shared=len(grams),
        longest=longest,
        place=place,
        tokens=tuple(text[place - before : place + longest + num_context].tolist()),
        num_before=before,
    )


def _longest_common(document: np.ndarray, text: np.ndarray) -> tuple[int, int]:
    """Return the first token and the length of the longest passage of a document that is in the text."""
    best = (0, 0)
    runs = np.zeros(len(document) + 1, dtype=np.int64)
    for token in text:
        # Length of the common passage that ends at each token of the document and at this token of the text.
        runs[1:] = np.where(document == token, runs[:-1] + 1, 0)
        end = int(runs.argmax())
        if runs[end] > best[1]:
            best = (end - int(runs[end]), int(runs[end]))
    return best
