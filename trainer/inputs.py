"""Load a run's configuration and check it with all inputs before any process group starts."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.compatibility import check_resume
from trainer.checkpoint.discovery import MISSING
from trainer.config.derived import DerivedConfig, derive_config, pad_vocab_size
from trainer.config.load import load_config
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, validate
from trainer.data.checks import check_datasets
from trainer.engine.deepspeed.settings import check_nvme_host
from trainer.loop.recovery_log import read_replay
from trireme.config.fields import is_inside
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.tokenizer.tokenizer import Tokenizer
from trireme.waiting import log_waiting_for

PATIENCE_SECONDS = 60.0
"""How long the other ranks wait for rank 0, which reports the same errors and ends the job."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Hold a valid configuration, and the values that are derived from it."""

    config: TrainConfig
    derived: DerivedConfig
    tokenizer: Tokenizer | None
    """None if no tokenizer is configured."""


@contextmanager
def main_rank_answers() -> Iterator[None]:
    """Let rank 0 report the errors that all ranks find; its exit ends the job."""
    try:
        yield
    except ConfigError:
        if int(os.environ.get("RANK", "0")) != 0:
            time.sleep(PATIENCE_SECONDS)
        raise


def load_inputs(
    overrides: list[str],
    *,
    check_files: Callable[[TrainConfig, Tokenizer | None, int], list[Violation]],
    unread: Collection[str] = (),
    computes: bool = True,
) -> RunInputs:
    """Load and check a run's configuration in every process of the job; rank 0 also checks the files.

    Args:
        overrides: of the command line.
        check_files: checks the files that the command needs, given the configuration, its tokenizer (None if there is
            none that can be opened) and the vocabulary size.
        unread: paths of fields that the command does not read, whose errors are ignored.
        computes: whether this host computes, and so needs the run's packages.
    Raises:
        ConfigError: all errors at once.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    with main_rank_answers():
        try:
            config = load_config(overrides, world_size=world_size)
        except ConfigError as error:
            raise_if_any(_without_unread(error.violations, unread))
            raise
        violations = validate(config, world_size=world_size)
        violations += check_packages(config) if computes else []
        tokenizer, found = open_tokenizer(config)
        violations += found
        vocab_size = config.model.vocab_size or (tokenizer.vocab_size if tokenizer else None)
        if int(os.environ.get("RANK", "0")) == 0:
            with log_waiting_for("rank 0 to check shards, tokenizer and checkpoint"):
                violations += check_files(config, tokenizer, vocab_size or 0)
        raise_if_any(_without_unread(_without_repetitions(violations), unread))
    assert vocab_size is not None
    derived = derive_config(
        config,
        world_size=world_size,
        vocab_size=vocab_size,
        tokenizer_eod_id=tokenizer.eos_id if tokenizer else None,
    )
    return RunInputs(config=config, derived=derived, tokenizer=tokenizer)


def check_training_host(config: TrainConfig, tokenizer: Tokenizer | None, vocab_size: int) -> list[Violation]:
    """Check all files that training reads or writes, including this host's local disk."""
    return [*check_nvme_host(config.engine), *check_training_files(config, tokenizer, vocab_size)]


def check_training_files(config: TrainConfig, tokenizer: Tokenizer | None, vocab_size: int) -> list[Violation]:
    """Check the files that hosts share: shards, tokenizer, checkpoint, run directory."""
    is_known = tokenizer is not None or config.tokenizer.path is None
    return [
        *check_data_files(config, vocab_size),
        *check_resume(
            config.resume,
            run_directory=Path(config.output_dir, config.run_name),
            model=config.model,
            padded_vocab_size=pad_vocab_size(config.model, vocab_size),
            seed=config.training.seed,
            tokenizer=tokenizer,
            vocab_size=vocab_size or None if is_known else None,
        ),
        *_check_replay(config.recovery.replay),
    ]


def _check_replay(replay: str | None) -> list[Violation]:
    """Check the recovery log of another run; `validate` reports a missing one."""
    if replay is not None and Path(replay).exists():
        try:
            read_replay(replay)
        except ConfigError as error:
            return list(error.violations)
    return []


def check_data_files(config: TrainConfig, vocab_size: int) -> list[Violation]:
    """Check the shards and compare them with tokenizer and model."""
    return check_datasets(
        config.data,
        tokenizer_path=config.tokenizer.path,
        seq_length=config.model.seq_length,
        vocab_size=vocab_size or None,
    )


def open_tokenizer(config: TrainConfig) -> tuple[Tokenizer | None, list[Violation]]:
    """Open the tokenizer, if one is configured, and check it."""
    configured, path = config.model.vocab_size, config.tokenizer.path
    if path is None or not Path(path).is_file():  # validate reports a missing file
        return None, []
    try:
        tokenizer = Tokenizer(path)
    except ConfigError as error:
        return None, list(error.violations)
    violations = []
    if configured is not None and configured < tokenizer.vocab_size:
        message = f"must be at least {tokenizer.vocab_size}, the number of tokens of tokenizer.path={path}"
        fix = f"Use null or {tokenizer.vocab_size}."
        violations.append(Violation(path="model.vocab_size", value=configured, message=message, fix=fix))
    if config.data.uses_documents and config.data.eod_token_id is None and tokenizer.eos_id is None:
        message = f"must be set, because tokenizer.path={path} has no end-of-sequence token"
        fix = "Set it to the token that ends documents in the shards."
        violations.append(Violation(path="data.eod_token_id", value="null", message=message, fix=fix))
    if configured is None and (config.data.eod_token_id or 0) >= tokenizer.vocab_size:
        message = f"must be one of the {tokenizer.vocab_size} tokens of tokenizer.path={path}"
        fix = f"Use null or 0 to {tokenizer.vocab_size - 1}."
        violations.append(Violation(path="data.eod_token_id", value=config.data.eod_token_id, message=message, fix=fix))
    return tokenizer, violations


def _without_unread(violations: Collection[Violation], unread: Collection[str]) -> list[Violation]:
    return [one for one in violations if not any(is_inside(one.path, path) for path in unread)]


def _without_repetitions(violations: list[Violation]) -> list[Violation]:
    """Remove repetitions of the same error, also of a path that two checks find missing."""
    distinct = list({str(violation): violation for violation in violations}.values())
    is_reported = {(one.path, str(one.value)) for one in distinct if one.message != MISSING}
    return [one for one in distinct if one.message != MISSING or (one.path, str(one.value)) not in is_reported]
