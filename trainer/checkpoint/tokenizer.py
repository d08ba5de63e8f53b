"""The tokenizer of a checkpoint: its identity, its copy, and whether another one may take its place.

Token ids mean what the tokenizer says. One of the same padded size fits every tensor and turns the model into nonsense,
so whoever loads a checkpoint compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.trainer_state import TokenizerRecord, TrainerState, read_state
from trainer.config.load import load_config_file
from trainer.run_directory.directory import CONFIG_NAME
from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import hash_file
from trireme.tokenizer.backends import CONFIG_NAMES
from trireme.tokenizer.tokenizer import HUGGINGFACE_NAME, Tokenizer

SENTENCEPIECE_NAME = "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class TokenizerCopy:
    """What each checkpoint of a run holds of its tokenizer, read once: the file may change or vanish later."""

    record: TokenizerRecord
    files: Mapping[str, bytes]
    """By name: the tokenizer, and of a tokenizer.json what says beside it which tokens end and begin a document."""


def copy_tokenizer(tokenizer: Tokenizer) -> TokenizerCopy:
    """Read a tokenizer's files for the checkpoints of a run.

    Raises:
        ConfigError: they cannot be read any more.
    """
    name = HUGGINGFACE_NAME if tokenizer.is_huggingface else SENTENCEPIECE_NAME
    directory = tokenizer.path.parent
    beside = [directory / other for other in CONFIG_NAMES] if tokenizer.is_huggingface else []
    try:
        files = {name: tokenizer.path.read_bytes()}
        files |= {path.name: path.read_bytes() for path in beside if path.is_file()}
    except OSError as error:
        rule = f"cannot be read: {error.strerror}"
        fix = "put the tokenizer's file back"
        raise ConfigError([Violation(path="tokenizer.path", value=tokenizer.path, message=rule, fix=fix)]) from error
    record = TokenizerRecord(sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, file=name)
    return TokenizerCopy(record=record, files=files)


def find_tokenizer(checkpoint: Path) -> Path | None:
    """Find the tokenizer that a checkpoint's token ids are of.

    Returns:
        The checkpoint's own copy. For one that an older version saved, the file that the config.yaml of its run names,
        looked for from the working directory and from the run directory. None where there is neither.
    Raises:
        ConfigError: the checkpoint's state cannot be read.
    """
    record = read_state(checkpoint).tokenizer
    if record is not None and (checkpoint / record.file).is_file():
        return checkpoint / record.file
    config_file = find_config(checkpoint)
    if config_file is None:
        return None
    try:
        named = load_config_file(config_file).tokenizer.path
    except ConfigError:  # of another version
        return None
    if named is None:
        return None
    path = Path(named).expanduser()
    places = (path, _run_directory(checkpoint) / path)
    return next((place for place in places if place.is_file()), None)


def find_config(checkpoint: Path) -> Path | None:
    """Find the configuration that a checkpoint was saved under: its own, or else the one of its run's newest start."""
    places = (checkpoint / CONFIG_NAME, _run_directory(checkpoint) / CONFIG_NAME)
    return next((place for place in places if place.is_file()), None)


def check_tokenizer(
    tokenizer: Tokenizer,
    *,
    state: TrainerState,
    checkpoint: Path,
    path: str = "tokenizer.path",
    otherwise: str = "",
) -> list[Violation]:
    """Name what makes a tokenizer another one than a checkpoint's.

    Args:
        tokenizer: what the command was given.
        state: of the checkpoint.
        path: what the user knows the tokenizer by.
        otherwise: what else can be done, such as `, or ...`.
    """
    record, place = state.tokenizer, find_tokenizer(checkpoint)
    # Of an older checkpoint the file that its run names is as much as is known.
    sha256 = record.sha256 if record is not None else hash_file(place) if place is not None else None
    if sha256 in (None, tokenizer.sha256):
        return []
    theirs = f"{place} (sha256 {_short(sha256)})" if place is not None else f"the one of sha256 {sha256}"
    sizes = ""
    if record is not None and record.vocab_size != tokenizer.vocab_size:
        sizes = f", with {tokenizer.vocab_size} tokens instead of {record.vocab_size}"
    return [
        Violation(
            path=path,
            value=str(tokenizer.path),
            message=f"is another tokenizer than the checkpoint's (sha256 {_short(tokenizer.sha256)}{sizes}): the token ids"
            f" that the model has learned mean something else in it ({checkpoint})",
            fix=f"use {theirs}{otherwise}",
        )
    ]


def check_vocab_size(
    vocab_size: int, *, state: TrainerState, checkpoint: Path, path: str = "model.vocab_size", otherwise: str = ""
) -> list[Violation]:
    """Name a vocabulary of another size than a checkpoint's, also where both are padded to the same number of rows.

    Args:
        vocab_size: tokens, without padding.
        state: of the checkpoint.
        path: what the user knows the number by.
        otherwise: what else can be done, such as `, or ...`.
    """
    if state.vocab_size in (None, vocab_size):
        return []
    return [
        Violation(
            path=path,
            value=vocab_size,
            message=f"differs from the checkpoint's {state.vocab_size} tokens ({checkpoint})",
            fix=f"use {state.vocab_size}{otherwise}",
        )
    ]


def _run_directory(checkpoint: Path) -> Path:
    """Where the run of a checkpoint lies, links and relative paths followed."""
    return checkpoint.resolve().parent.parent


def _short(sha256: str | None) -> str:
    return f"{(sha256 or '')[:12]}..."
