"""Third stage: train a SentencePiece tokenizer on a sample of the training documents, or take the one that is given."""

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
from data_tools.work.pool import WorkerDiedError, WorkerPool
from data_tools.work.progress import Stages
from data_tools.work.spool import BlobRef

MAX_SENTENCE_BYTES = 4192
"""SentencePiece leaves longer lines out, so they are cut."""
LARGE_CORPUS_CHARACTERS = 500_000_000

logger = logging.getLogger(__name__)

_TOO_LARGE = re.compile(r"Vocabulary size (?:is )?too high \((\d+)\).*?<= (\d+)", re.DOTALL)
_TOO_SMALL = re.compile(r"Vocabulary size is smaller than required_chars. (\d+) vs (\d+)")


class SampledBatch(NamedTuple):
    """A spooled batch that has documents to train on."""

    place: BlobRef
    is_sampled: np.ndarray
    """[its documents] bool."""
    repeated_lines: np.ndarray | None = None
    """[bytes] uint8: a bit per line that is left out; None where all stay."""


def train_tokenizer(
    texts: list[SampledBatch],
    *,
    config: TokenizerConfig,
    directory: Path,
    target: Path,
    stages: Stages,
) -> None:
    """Train in a process of its own and write the model to `target`, its pieces and scores beside it as .vocab.

    With vocab_size=auto a text that gives fewer pieces than the largest number is trained on again, for as many as it
    gives, and a warning says so.

    Args:
        directory: where the documents are spooled.
    Raises:
        PreparationError: the sample does not suit the settings, or the process was killed.
    """
    arguments = (texts, config, directory, target)
    with (
        stages.begin("tokenizer", total=None, unit="lines") as progress,
        WorkerPool(
            _serve_training,
            num_workers=1,
            arguments=arguments,
            memory_hint="use a smaller data_prep.tokenizer.sample_characters",
        ) as pool,
    ):
        pool.tasks[0] = "the training of the tokenizer"
        num_lines: int | None = 0
        while num_lines is not None:
            progress.update(num_lines)
            for _, message in pool.wait(timeout_seconds=1.0):
                if isinstance(message, WorkerDiedError):
                    pool.replace(message, work="training")
                    pool.tasks[0] = "the training of the tokenizer"
                    message = 0
                num_lines = message
    if config.vocab_size == "auto":
        count = sentencepiece.SentencePieceProcessor(model_file=str(target)).get_piece_size()
        if count < _largest_auto_size(config):
            logger.warning(
                "warning: data_prep.tokenizer.vocab_size=auto: the tokenizer has %d pieces, as many as the text gives;"
                " more text gives up to %d",
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
            documents = read_without_lines(directory, batch.place, batch.repeated_lines)
            for document, is_chosen in zip(documents, batch.is_sampled, strict=True):
                if is_chosen:
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
    """Sizes to try for a text that gives so many pieces at most.

    The characters of a short text may need more than the multiple below: then the text decides, and the model's table
    of embeddings is padded.
    """
    below = largest // multiple * multiple
    return [size for size in dict.fromkeys((below, largest)) if MIN_VOCAB_SIZE <= size < asked]


def _train(lines: Iterator[str], options: dict[str, Any]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    return model.getvalue()


def trainer_options(config: TokenizerConfig) -> dict[str, Any]:
    """What SentencePiece is told. Nothing here names a file, so equal text and settings give equal models."""
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
        # Every character that has no piece is written in bytes, so nothing is ever unknown.
        "byte_fallback": True,
        # Text is taken as it is: what is decoded is what was encoded, to the last space.
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
    """Cut a text into lines that SentencePiece takes, long ones at spaces where there are any."""
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
                f"the text is too short to train a tokenizer on: it gives {found[2]} pieces, 256 bytes among them, and"
                f" the vocabulary is a multiple of data_prep.tokenizer.vocab_multiple={config.vocab_multiple}; give it"
                " more text, use data_prep.tokenizer.vocab_size=auto, or take an existing tokenizer"
                " (data_prep.tokenizer.path)"
            )
        return (
            f"data_prep.tokenizer.vocab_size={config.vocab_size} is too large for the text: it gives at most {found[2]}"
            f" pieces; use {largest} or less, or give it more text"
        )
    if found := _TOO_SMALL.search(message):
        smallest = -(-int(found[2]) // config.vocab_multiple) * config.vocab_multiple
        return (
            f"data_prep.tokenizer.vocab_size={config.vocab_size} is too small for the text: its characters alone need"
            f" {found[2]} pieces; use {smallest} or more, or a lower data_prep.tokenizer.character_coverage"
        )
    return f"the tokenizer cannot be trained with these settings: {message}"
