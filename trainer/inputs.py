"""Load a run's configuration and check it with all inputs before any process group starts."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.adapter_base import LORA_BASE, check_adapters, check_base_files, check_start
from trainer.checkpoint.classes import check_pretrained_classes, check_resumed_classes
from trainer.checkpoint.compatibility import check_resume
from trainer.checkpoint.discovery import MISSING
from trainer.checkpoint.pretrained import check_contents, check_pretrained, find_resumed
from trainer.checkpoint.trainer_state import read_state
from trainer.config.derived import DerivedConfig, derive_config, pad_vocab_size
from trainer.config.load import load_config
from trainer.config.lora import LoraConfig
from trainer.config.pretrained import PRETRAINED
from trainer.config.rules.ranges import check_ranges
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, validate
from trainer.data_inputs import check_data_files, check_independent_data, open_tokenizer
from trainer.engine.deepspeed.settings import check_nvme_host
from trainer.loop.recovery_log import read_replay
from trainer.saved_run import check_tokenizer, open_saved_run
from trainer.teacher import check_teacher
from trireme.config.fields import is_inside
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.processes import global_rank, world_size
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
        if global_rank() != 0:
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
    num_processes = world_size()
    is_main_rank = global_rank() == 0

    def check_despite(config: TrainConfig, doubtful: Collection[str]) -> list[Violation]:
        """Check what does not depend on the settings with errors of form."""
        from_rules = validate(config, world_size=num_processes, ignore=doubtful)
        doubtful = {*doubtful, *(violation.path for violation in check_ranges(config))}
        return from_rules + (check_independent_data(config, doubtful=doubtful, unread=unread) if is_main_rank else [])

    with main_rank_answers():
        try:
            config = load_config(overrides, check=check_despite)
        except ConfigError as error:
            raise_if_any(_without_unread(error.violations, unread))
            raise
        violations = validate(config, world_size=num_processes)
        violations += check_packages(config) if computes else []
        tokenizer, found = open_tokenizer(config)
        violations += found
        vocab_size = config.model.vocab_size or (tokenizer.vocab_size if tokenizer else None)
        if is_main_rank:
            with log_waiting_for("rank 0 to check shards, tokenizer and checkpoint"):
                violations += check_files(config, tokenizer, vocab_size or 0)
        raise_if_any(_without_unread(_without_repetitions(violations), unread))
    assert vocab_size is not None
    derived = derive_config(
        config,
        world_size=num_processes,
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
    run_directory = Path(config.output_dir, config.run_name)
    return [
        *check_data_files(config, vocab_size),
        *check_resume(
            config.resume,
            run_directory=run_directory,
            model=config.model,
            padded_vocab_size=pad_vocab_size(config.model, vocab_size),
            seed=config.training.seed,
            tokenizer=tokenizer,
            vocab_size=vocab_size or None if is_known else None,
        ),
        *_check_start(config, tokenizer, vocab_size, run_directory=run_directory),
        *_check_replay(config.recovery.replay),
        *check_teacher(
            config,
            tokenizer=tokenizer,
            padded_vocab_size=pad_vocab_size(config.model, vocab_size) if vocab_size else None,
            world_size=world_size(),
        ),
    ]


def _check_start(
    config: TrainConfig, tokenizer: Tokenizer | None, vocab_size: int, *, run_directory: Path
) -> list[Violation]:
    """Check the checkpoint whose weights a new run starts from, or that the resumed one has more than weights."""
    resumed = find_resumed(config.resume, run_directory=run_directory)
    if resumed is not None:
        classes = check_resumed_classes(config.data.train, checkpoint=resumed, path="data.train")
        return [*check_contents(resumed), *_check_adapters(config, resumed), *classes]
    path = config.pretrained_checkpoint
    if path is None:
        return [_needs_weights(config.lora)] if config.lora.is_on else []
    padded_vocab_size = pad_vocab_size(config.model, vocab_size) if vocab_size else None
    found = check_pretrained(path, model=config.model, padded_vocab_size=padded_vocab_size)
    if found:
        return found
    saved = open_saved_run(Path(path), verify=False, name=PRETRAINED)
    found = check_start(config.lora, checkpoint=saved.checkpoint)
    found += check_pretrained_classes(config.data.train, model=config.model, checkpoint=saved.checkpoint)
    if found or tokenizer is None:
        return found
    return check_tokenizer(tokenizer, saved=saved, path="tokenizer.path")


def _check_adapters(config: TrainConfig, resumed: Path) -> list[Violation]:
    """Check that a run's adapters are those of a checkpoint to resume from, and that the weights beneath are there."""
    state = read_state(resumed)
    found = check_adapters(config.lora, state=state, checkpoint=resumed)
    if found or not config.lora.is_on:
        return found
    given = Path(config.lora.base) if config.lora.base is not None else None
    return check_base_files(state, adapters=resumed, given=given, path=LORA_BASE)


def _needs_weights(lora: LoraConfig) -> Violation:
    return Violation(
        path="lora.rank",
        value=lora.rank,
        message=f"requires {PRETRAINED}: adapters change a trained model",
        fix=f"Set {PRETRAINED} to a run or an import, or lora.rank=0 to train all weights.",
    )


def _check_replay(replay: str | None) -> list[Violation]:
    """Check the recovery log of another run; `validate` reports a missing one."""
    if replay is not None and Path(replay).exists():
        try:
            read_replay(replay)
        except ConfigError as error:
            return list(error.violations)
    return []


def _without_unread(violations: Collection[Violation], unread: Collection[str]) -> list[Violation]:
    return [one for one in violations if not any(is_inside(one.path, path) for path in unread)]


def _without_repetitions(violations: list[Violation]) -> list[Violation]:
    """Remove repetitions of the same error, also of a path that two checks find missing."""
    distinct = list({str(violation): violation for violation in violations}.values())
    is_reported = {(one.path, str(one.value)) for one in distinct if one.message != MISSING}
    return [one for one in distinct if one.message != MISSING or (one.path, str(one.value)) not in is_reported]
