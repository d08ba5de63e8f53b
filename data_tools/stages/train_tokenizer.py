"""The stage `train_tokenizer`: train a SentencePiece model on a sample of the training documents."""

import io
import logging
import re
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from data_tools.config.schema import LARGEST_AUTO_VOCAB_SIZE, MIN_VOCAB_SIZE, TokenizerConfig, list_special_tokens
from data_tools.dedup.lines import read_without_lines
from data_tools.errors import PreparationError
from data_tools.stages.cache import Stage
from data_tools.work.pool import WorkerDiedError, WorkerPool
from data_tools.work.progress import Stages
from data_tools.work.spool import BlobRef

MAX_SENTENCE_BYTES = 4192
"""SentencePiece skips longer lines, so they are cut."""
LARGE_CORPUS_CHARACTERS = 500_000_000

logger = logging.getLogger(__name__)

_TOO_LARGE = re.compile(r"Vocabulary size (?:is )?too high \((\d+)\).*?<= (\d+)", re.DOTALL)
_TOO_SMALL = re.compile(r"Vocabulary size is smaller than required_chars. (\d+) vs (\d+)")


class SampledBatch(NamedTuple):
    """A spooled batch that has documents to train on."""

    blob_ref: BlobRef
    is_sampled: np.ndarray
    """[its documents] bool."""
    repeated_lines: np.ndarray | None = None
    """[bytes] uint8: a bit per removed line; None where all lines are kept."""


def train_tokenizer(
    texts: list[SampledBatch],
    *,
    config: TokenizerConfig,
    directory: Path,
    target: Path,
    stages: Stages,
) -> None:
    """Train in a separate process; write the model to `target`, and its pieces and scores next to it as .vocab.

    If vocab_size=auto and the text yields fewer pieces than the largest size, training is repeated with the number that
    it yields, and a warning is logged.

    Args:
        directory: of the spooled documents.
    Raises:
        PreparationError: the sample does not fit the settings, or the process was killed.
    """
    arguments = (texts, config, directory, target)
    with (
        stages.begin(Stage.TRAIN_TOKENIZER, total=None, unit="lines") as progress,
        WorkerPool(
            _serve_training,
            num_workers=1,
            arguments=arguments,
            memory_hint="use a smaller data_prep.tokenizer.sample_characters",
        ) as pool,
    ):
        pool.tasks[0] = "the training text"
        num_lines: int | None = 0
        while num_lines is not None:
            progress.update(num_lines)
            for _, message in pool.wait(timeout_seconds=1.0):
                if isinstance(message, WorkerDiedError):
                    pool.replace(message, work="training")
                    pool.tasks[0] = "the training text"
                    message = 0
                num_lines = message
    if config.vocab_size == "auto":
        count = sentencepiece.SentencePieceProcessor(model_file=str(target)).get_piece_size()
        if count < _largest_auto_size(config):
            logger.warning(
                "warning: data_prep.tokenizer.vocab_size=auto: the tokenizer has only %d pieces, all that the text"
                " yields; with more text it has up to %d",
                count,
                LARGEST_AUTO_VOCAB_SIZE,
            )


def _largest_auto_size(config: TokenizerConfig) -> int:
    return LARGEST_AUTO_VOCAB_SIZE // config.vocab_multiple * config.vocab_multiple


def _serve_training(
    connection: Connection,
    worker: int,
    texts: list[SampledBatch],
    config: TokenizerConfig,
    directory: Path,
    target: Path,
) -> None:
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for batch in texts:
            documents = read_without_lines(directory, batch.blob_ref, batch.repeated_lines)
            for document, is_sampled in zip(documents, batch.is_sampled, strict=True):
                if is_sampled:
                    for line in split_lines(document.text):
                        count += 1
                        yield line
            connection.send(count)

    sizes = [int(trainer_options(config)["vocab_size"])]
    while True:
        size = sizes.pop(0)
        try:
            model = _train(lines(), {**trainer_options(config), "vocab_size": size})
            break
        except (RuntimeError, ValueError) as error:
            if config.vocab_size == "auto" and not sizes and (found := _TOO_LARGE.search(str(error))):
                sizes = _list_fitting_sizes(int(found[2]), asked=size, multiple=config.vocab_multiple)
            if not sizes:
                raise PreparationError(_explain(str(error), config)) from error
    target.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    with open(target.with_suffix(".vocab"), "w", encoding="utf-8") as stream:
        for piece in range(processor.get_piece_size()):
            stream.write(f"{processor.id_to_piece(piece)}\t{processor.get_score(piece):g}\n")
    connection.send(None)


def _list_fitting_sizes(largest: int, *, asked: int, multiple: int) -> list[int]:
    """List the sizes to try for a text that yields at most `largest` pieces.

    A short text may need more pieces than the next lower multiple: then the size is not a multiple, and the model's
    embedding table is padded.
    """
    below = largest // multiple * multiple
    return [size for size in dict.fromkeys((below, largest)) if MIN_VOCAB_SIZE <= size < asked]


def _train(lines: Iterator[str], options: dict[str, Any]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    return model.getvalue()


def trainer_options(config: TokenizerConfig) -> dict[str, Any]:
    """Build SentencePiece's training options. None names a file, so equal text and settings give equal models."""
    vocab_size = config.vocab_size
    if vocab_size == "auto":
        vocab_size = _largest_auto_size(config)
    return {
        "model_type": config.model_type,
        "vocab_size": vocab_size,
        "character_coverage": config.character_coverage,
        "control_symbols": list_special_tokens(config),
        "user_defined_symbols": config.user_defined_symbols,
        "num_threads": config.num_threads,
        # Every character without a piece is encoded as bytes, so no token is ever unknown.
        "byte_fallback": True,
        # No normalization: decoding restores the encoded text, to the last space.
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": config.split_digits,
        "max_sentence_length": MAX_SENTENCE_BYTES,
        "shuffle_input_sentence": False,
        "train_extremely_large_corpus": config.sample_characters > LARGE_CORPUS_CHARACTERS,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
        "minloglevel": 2,
    }


def split_lines(text: str) -> Iterator[str]:
    """Cut a text into lines that SentencePiece accepts; long ones are cut at spaces where possible."""
    for line in text.split("\n"):
        # A character has at most four bytes.
        while len(line) * 4 > MAX_SENTENCE_BYTES and len(line.encode("utf-8")) > MAX_SENTENCE_BYTES:
            room = MAX_SENTENCE_BYTES // 4
            end = line.rfind(" ", 1, room)
            end = room if end < 0 else end
            yield line[:end]
            line = line[end:]
        if line.strip():
            yield line


def _explain(message: str, config: TokenizerConfig) -> str:
    if found := _TOO_LARGE.search(message):
        largest = int(found[2]) // config.vocab_multiple * config.vocab_multiple
        if largest < MIN_VOCAB_SIZE:
            return (
                f"The text is too short to train a tokenizer: it yields only {found[2]} pieces, 256 bytes included, and"
                f" the vocabulary must be a multiple of data_prep.tokenizer.vocab_multiple={config.vocab_multiple}. Add"
                " text, set data_prep.tokenizer.vocab_size=auto, or use an existing tokenizer"
                " (data_prep.tokenizer.path)."
            )
        return (
            f"data_prep.tokenizer.vocab_size: too large for the text, which yields at most {found[2]} pieces (got"
            f" {config.vocab_size}). Use {largest} or less, or add text."
        )
    if found := _TOO_SMALL.search(message):
        smallest = -(-int(found[2]) // config.vocab_multiple) * config.vocab_multiple
        return (
            f"data_prep.tokenizer.vocab_size: too small for the text, whose characters alone need {found[2]} pieces"
            f" (got {config.vocab_size}). Use {smallest} or more, or lower data_prep.tokenizer.character_coverage."
        )
    return f"Failed to train the tokenizer with these settings: {message}"
