"""Open a trained run for evaluation or generation: its checkpoint, configuration and tokenizer.

The run directory may have been copied to another machine, and the command may start in any directory.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import tokenizer as saved_tokenizer
from trainer.checkpoint.directory import CHECKPOINTS
from trainer.checkpoint.discovery import choose_at
from trainer.checkpoint.tokenizer import find_tokenizer
from trainer.checkpoint.trainer_state import TrainerState, read_state
from trainer.config.derived import pad_vocab_size
from trainer.config.run import DatasetConfig
from trainer.config.schema import TrainConfig
from trireme.errors import Violation
from trireme.shards.shard import shard_file
from trireme.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """Hold a checkpoint with its run directory, state and tokenizer."""

    checkpoint: Path
    run_directory: Path | None
    """The directory of the checkpoint's run; None if the checkpoint was copied out of it."""
    state: TrainerState
    tokenizer_path: Path | None
    """The tokenizer that the model was trained with; None if it is unknown, or there was none."""


def open_saved_run(path: Path, *, verify: bool, name: str = "PATH") -> SavedRun:
    """Open the latest valid checkpoint at a path. In a distributed job, all ranks call this.

    Args:
        path: a run directory, its checkpoints directory, or a checkpoint; never a keyword of `resume`.
        verify: read every byte of the checkpoint and compare sha256.
        name: the user's name of the path, for messages.
    Raises:
        ConfigError: there is none, or all are damaged.
    """
    checkpoint = choose_at(path, verify=verify, name=name)
    return SavedRun(
        checkpoint=checkpoint,
        run_directory=run_directory_of(checkpoint),
        state=read_state(checkpoint),
        tokenizer_path=find_tokenizer(checkpoint),
    )


def run_directory_of(checkpoint: Path) -> Path | None:
    """Return the run directory of a checkpoint; None if the checkpoint is not in a run's checkpoints directory."""
    directory = checkpoint.resolve().parent
    return directory.parent if directory.name == CHECKPOINTS else None


def locate_datasets(
    datasets: Sequence[DatasetConfig], *, config: TrainConfig, run_directory: Path | None
) -> list[DatasetConfig]:
    """Find the shards of a run, even if its directory has moved or the command starts in another directory.

    A shard that is not found keeps its path, for the message that it is missing.
    """
    if run_directory is None:
        return list(datasets)
    return [
        dataclasses.replace(
            dataset, paths=[_locate(path, config=config, run_directory=run_directory) for path in dataset.paths]
        )
        for dataset in datasets
    ]


def _locate(prefix: str, *, config: TrainConfig, run_directory: Path) -> str:
    """Find a shard: one inside the run directory moves with it; a relative path is relative to the start of the run."""
    path, named = Path(prefix).expanduser(), Path(config.output_dir, config.run_name).expanduser()
    here = run_directory.resolve()
    places = [path]
    if path.is_relative_to(named):
        places.append(here / path.relative_to(named))
    if not path.is_absolute() and not named.is_absolute() and here.parts[-len(named.parts) :] == named.parts:
        places.append(Path(*here.parts[: -len(named.parts)], path))
    return str(next((place for place in places if shard_file(str(place), ".idx").exists()), path))


def check_tokenizer(tokenizer: Tokenizer, *, saved: SavedRun, path: str, otherwise: str = "") -> list[Violation]:
    """Report a tokenizer that differs from the model's: its ids would mean other tokens.

    Another file with the same tokens, such as a tokenizer.json made from the SentencePiece model, is accepted.

    Args:
        path: the user's path of the tokenizer.
        otherwise: an alternative fix, such as `, or ...`.
    """
    state, checkpoint = saved.state, saved.checkpoint
    if state.tokenizer is None and saved.tokenizer_path is None:
        return _check_size(tokenizer, saved=saved, path=path)
    found = saved_tokenizer.check_tokenizer(
        tokenizer, state=state, checkpoint=checkpoint, path=path, otherwise=otherwise
    )
    return [] if found and has_tokens_of(tokenizer, saved.tokenizer_path) else found


def _check_size(tokenizer: Tokenizer, *, saved: SavedRun, path: str) -> list[Violation]:
    """Compare the number of tokens, for a checkpoint without a known tokenizer."""
    model, padded = saved.state.model_config(), saved.state.padded_vocab_size
    known = saved.state.vocab_size or model.vocab_size
    if known is None and pad_vocab_size(model, tokenizer.vocab_size) != padded:
        size = f"the model's embedding has {padded} rows"
    elif known is not None and tokenizer.vocab_size > known:
        size = f"the model has {known}"
    else:
        return []
    return [
        Violation(
            path=path,
            value=tokenizer.path,
            message="is not the tokenizer that the model was trained with: it has"
            f" {tokenizer.vocab_size} tokens (sha256 {tokenizer.sha256}), but {size} ({saved.checkpoint})",
            fix="Use the tokenizer of the run's shards.",
        )
    ]


def has_tokens_of(tokenizer: Tokenizer, own_path: Path | None) -> bool:
    """Return whether each id of a tokenizer is the same token as in the tokenizer file at a path."""
    if own_path is None:
        return False
    own = Tokenizer(own_path)
    return own.vocab_size == tokenizer.vocab_size and all(
        own.token_name(token) == tokenizer.token_name(token) for token in range(own.vocab_size)
    )
