"""Copy the tokenizer into checkpoints, find it there, and check that another one may replace it.

The tokenizer defines what token ids mean. Another one of the same padded size fits every tensor, but makes the model's
output meaningless, so every command that loads a checkpoint compares tokenizers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.companions import read_companions
from trainer.checkpoint.trainer_state import ORIGIN_NAME, STATE_NAME, TokenizerRecord, TrainerState, read_state
from trainer.config.load import load_config_file
from trainer.run_directory.directory import CONFIG_NAME
from trireme.errors import ConfigError, Violation
from trireme.shards.examples import RECORD_NAME
from trireme.shards.manifest import hash_file
from trireme.tokenizer.tokenizer import HUGGINGFACE_NAME, Tokenizer

SENTENCEPIECE_NAME = "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class TokenizerCopy:
    """Hold the tokenizer files for a run's checkpoints, read once: the original may change or be deleted later."""

    record: TokenizerRecord
    files: Mapping[str, bytes]
    """By name: the tokenizer, and the files next to it that belong to its model (`COMPANION_NAMES`)."""


def copy_tokenizer(tokenizer: Tokenizer) -> TokenizerCopy:
    """Read a tokenizer's files for the checkpoints of a run.

    Raises:
        ConfigError: they can no longer be read.
    """
    name = HUGGINGFACE_NAME if tokenizer.is_huggingface else SENTENCEPIECE_NAME
    try:
        files = {**read_companions(tokenizer.path.parent), name: tokenizer.path.read_bytes()}
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        fix = "Restore the tokenizer file."
        raise ConfigError([Violation(path="tokenizer.path", value=tokenizer.path, message=message, fix=fix)]) from error
    record = TokenizerRecord(sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, file=name)
    return TokenizerCopy(record=record, files=files)


def inherit_files(
    source: Path | None, *, tokenizer: TokenizerCopy | None, keeps_task: bool = False
) -> dict[str, bytes]:
    """Read what a run keeps of the checkpoint that its weights come from, for its own checkpoints.

    Args:
        source: that checkpoint; None for a run with weights of its own.
        tokenizer: of the run; None without one.
        keeps_task: keep what its model was fine-tuned on, such as the names of classes: the model is the same one in
            another form, and not trained further.
    Returns:
        By name: the record of an import, that of the task, and, if the tokenizer is the same, the companions such as
        the chat template.
    Raises:
        ConfigError: the checkpoint's state cannot be read.
        OSError: a file cannot be read.
    """
    if source is None or not (source / STATE_NAME).is_file():
        return {}
    files = {}
    if (source / ORIGIN_NAME).is_file():
        files[ORIGIN_NAME] = (source / ORIGIN_NAME).read_bytes()
    if keeps_task and (source / RECORD_NAME).is_file():
        files[RECORD_NAME] = (source / RECORD_NAME).read_bytes()
    record = read_state(source).tokenizer
    if record is not None and tokenizer is not None and record.sha256 == tokenizer.record.sha256:
        files |= read_companions(source)
    return files


def find_tokenizer(checkpoint: Path) -> Path | None:
    """Find the tokenizer of a checkpoint.

    Returns:
        The checkpoint's own copy. For a checkpoint of an older version, the file that the config.yaml of its run names,
        relative to the working directory or the run directory. None if there is neither.
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
    """Find the configuration that a checkpoint was saved with: its own, or else that of its run's latest start."""
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
    """Report a tokenizer that differs from a checkpoint's.

    Args:
        tokenizer: that the command was given.
        state: of the checkpoint.
        path: the user's path of the tokenizer.
        otherwise: an alternative fix, such as `, or ...`.
    """
    record, place = state.tokenizer, find_tokenizer(checkpoint)
    # Of an older checkpoint, only the file that its run names is known.
    sha256 = record.sha256 if record is not None else hash_file(place) if place is not None else None
    if sha256 in (None, tokenizer.sha256):
        return []
    theirs = f"{place} (sha256 {_short(sha256)})" if place is not None else f"the tokenizer with sha256 {sha256}"
    sizes = ""
    if record is not None and record.vocab_size != tokenizer.vocab_size:
        sizes = f", {tokenizer.vocab_size} tokens instead of {record.vocab_size}"
    return [
        Violation(
            path=path,
            value=str(tokenizer.path),
            message=f"differs from the tokenizer of {checkpoint} (sha256 {_short(tokenizer.sha256)}{sizes}): the token"
            " ids that the model has learned have other meanings in it",
            fix=f"Use {theirs}{otherwise}.",
        )
    ]


def check_vocab_size(
    vocab_size: int, *, state: TrainerState, checkpoint: Path, path: str = "model.vocab_size", otherwise: str = ""
) -> list[Violation]:
    """Report a vocabulary whose size differs from a checkpoint's, even if both are padded to the same number of rows.

    Args:
        vocab_size: tokens, without padding.
        state: of the checkpoint.
        path: the user's path of the size.
        otherwise: an alternative fix, such as `, or ...`.
    """
    if state.vocab_size in (None, vocab_size):
        return []
    return [
        Violation(
            path=path,
            value=vocab_size,
            message=f"differs from the checkpoint's {state.vocab_size} tokens ({checkpoint})",
            fix=f"Use {state.vocab_size}{otherwise}.",
        )
    ]


def _run_directory(checkpoint: Path) -> Path:
    """Return the run directory of a checkpoint, with links and relative paths resolved."""
    return checkpoint.resolve().parent.parent


def _short(sha256: str | None) -> str:
    return f"{(sha256 or '')[:12]}..."
