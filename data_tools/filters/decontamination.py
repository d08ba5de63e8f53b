"""Drop documents that share an n-gram of words, or of characters, with evaluation texts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_tools.config.filtering import DecontaminationConfig
from data_tools.config.schema import DataPrepConfig
from data_tools.document import Document, DroppedError, apply_filter
from data_tools.errors import PreparationError
from data_tools.extract.normalize import normalize
from data_tools.extract.plain import extract_json, extract_plain
from data_tools.inputs.files import InputFile, open_input
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.text.ngrams import hash_ngrams, hash_tokens
from trireme.progress import format_number


@dataclass(frozen=True, kw_only=True)
class NgramTable:
    """N-grams of evaluation texts, with the text of each."""

    ngrams: np.ndarray
    """[k] uint64, ascending, each once."""
    texts: np.ndarray
    """[k] int64: number of the first text with the n-gram."""

    def find(self, ngrams: np.ndarray) -> np.ndarray:
        """Return the indices in the table of those n-grams that are in it, in order; the table must not be empty."""
        places = np.searchsorted(self.ngrams, ngrams).clip(max=len(self.ngrams) - 1)
        return places[self.ngrams[places] == ngrams]


@dataclass(frozen=True, kw_only=True)
class EvaluationTexts:
    """The evaluation texts that documents are compared with."""

    words: NgramTable
    """Of texts with spaces between words."""
    characters: NgramTable
    """Of texts in scripts without spaces."""
    origins: list[tuple[str, int]]
    """Source and record number of every text."""
    num_short: int
    """Number of texts that are shorter than one n-gram; they are skipped."""


def read_evaluations(files: list[InputFile], config: DataPrepConfig) -> EvaluationTexts | None:
    """Read all evaluation texts; return None if there are no files.

    Raises:
        PreparationError: a file cannot be opened, or a record has no readable text.
    """
    if not files:
        return None
    settings = config.decontamination
    words: list[tuple[np.ndarray, int]] = []
    characters: list[tuple[np.ndarray, int]] = []
    origins: list[tuple[str, int]] = []
    num_short = 0
    for file in files:
        for record, text in _read_texts(file, config):
            tokens = hash_tokens(text)
            n = settings.ngram_characters if tokens.is_unspaced else settings.ngram_words
            if len(tokens.hashes) >= n:
                ngrams = hash_ngrams(tokens.hashes, n=n)
                (characters if tokens.is_unspaced else words).append((ngrams, len(origins)))
            else:
                num_short += 1
            origins.append((file.source.name, record))
    return EvaluationTexts(
        words=build_table(words), characters=build_table(characters), origins=origins, num_short=num_short
    )


def _read_texts(file: InputFile, config: DataPrepConfig) -> Iterator[tuple[int, str]]:
    ledger = Ledger()
    with open_input(file) as stream:
        documents = read_documents(file, stream=stream, ledger=ledger, config=config)
        extract = extract_json if file.source.kind == "jsonl" else extract_plain
        for apply in (extract, normalize):
            documents = apply_filter(apply, documents, name="extract", ledger=ledger)
        yield from ((document.record, document.text) for document in documents)
    # A text that cannot be read would silently be missing from decontamination.
    if example := next(iter(ledger.examples), None):
        count = ledger.dropped.total() + ledger.failed.total()
        raise PreparationError(
            f"{file.path}: {format_number(count, 'record')} of this evaluation file cannot be used; first is record"
            f" {example.record}: {example.reason} {example.detail}".rstrip()
        )


def build_table(parts: list[tuple[np.ndarray, int]]) -> NgramTable:
    """Build a table from the n-grams and the number of each text."""
    ngrams = np.concatenate([np.empty(0, np.uint64), *(part for part, _ in parts)])
    texts = np.repeat(np.array([text for _, text in parts], np.int64), [len(part) for part, _ in parts])
    unique, places = np.unique(ngrams, return_index=True)
    return NgramTable(ngrams=unique, texts=texts[places])


class Decontaminator:
    """Drop documents with at least min_ngrams distinct n-grams of evaluation texts."""

    def __init__(self, config: DecontaminationConfig, evaluations: EvaluationTexts) -> None:
        self._config, self._evaluations = config, evaluations

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise for a contaminated document."""
        tokens = hash_tokens(document.text)
        num_found, text = 0, -1
        for table, n in (
            (self._evaluations.words, self._config.ngram_words),
            (self._evaluations.characters, self._config.ngram_characters),
        ):
            if len(table.ngrams) and len(tokens.hashes) >= n:
                places = table.find(hash_ngrams(tokens.hashes, n=n))
                if len(places) and text < 0:
                    text = int(table.texts[places[0]])
                num_found += len(np.unique(places))
        if num_found >= self._config.min_ngrams:
            source, record = self._evaluations.origins[text]
            raise DroppedError("contaminated", f"{num_found} n-grams, the first of record {record} of {source}")
