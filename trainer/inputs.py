"""What a run is told and given, checked as a whole before any process group starts."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.check import check_resume
from trainer.common.errors import ConfigError, Violation, raise_if_any
from trainer.config.load import load_config
from trainer.config.plan import RunPlan, build_plan, pad_vocab_size
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trainer.data.checks import check_datasets
from trainer.data.tokenizer import Tokenizer

PATIENCE_SECONDS = 60.0
"""How long the other ranks leave the word to rank 0, whose message is the same."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """A configuration that can be run, and the numbers that follow from it."""

    config: TrainConfig
    plan: RunPlan


def load_inputs(overrides: list[str], *, check_files: Callable[[TrainConfig, int], list[Violation]]) -> RunInputs:
    """Load and check a run's configuration in every process of the job; rank 0 looks at the files too.

    Args:
        overrides: of the command line.
        check_files: what else the command needs, given the configuration and the vocabulary's size.
    Raises:
        ConfigError: everything that is wrong, at once.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    is_main_rank = int(os.environ.get("RANK", "0")) == 0
    try:
        config = load_config(overrides, world_size=world_size)
        violations = validate(config, world_size=world_size)
        vocab_size, found = _find_vocab_size(config)
        violations += found
        if is_main_rank:
            violations += check_files(config, vocab_size or 0)
        raise_if_any(_without_repetitions(violations))
    except ConfigError:
        if not is_main_rank:
            # Rank 0 finds the same and says so; its end is the end of all.
            time.sleep(PATIENCE_SECONDS)
        raise
    assert vocab_size is not None
    return RunInputs(config=config, plan=build_plan(config, world_size=world_size, vocab_size=vocab_size))


def check_training_files(config: TrainConfig, vocab_size: int) -> list[Violation]:
    """Look at everything on disk that training reads or writes: shards, tokenizer, checkpoint, run directory."""
    return [
        *check_data_files(config, vocab_size),
        *check_resume(
            config.resume,
            run_directory=Path(config.output_dir, config.run_name),
            model=config.model,
            padded_vocab_size=pad_vocab_size(config.model, vocab_size),
        ),
    ]


def check_data_files(config: TrainConfig, vocab_size: int) -> list[Violation]:
    """Look at the shards and compare them with tokenizer and model."""
    return check_datasets(
        config.data,
        tokenizer_path=config.tokenizer.path,
        seq_length=config.model.seq_length,
        vocab_size=vocab_size or None,
    )


def _find_vocab_size(config: TrainConfig) -> tuple[int | None, list[Violation]]:
    """Tokens in the vocabulary, and what is wrong with the tokenizer."""
    configured, path = config.model.vocab_size, config.tokenizer.path
    if path is None or not Path(path).is_file():  # validate has named a missing file
        return configured, []
    try:
        found = Tokenizer(path).vocab_size
    except ConfigError as error:
        return configured, list(error.violations)
    if configured is not None and configured < found:
        rule, fix = f"is less than the {found} tokens of tokenizer.path={path}", f"use null or {found}"
        return configured, [Violation(path="model.vocab_size", value=configured, rule=rule, fix=fix)]
    return configured or found, []


def _without_repetitions(violations: list[Violation]) -> list[Violation]:
    """Keep the first of those that name the same value at the same path for the same fault."""
    return list({str(violation): violation for violation in violations}.values())
