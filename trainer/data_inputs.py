"""Check a run's tokenizer and shards. Needs no PyTorch, so that launchers can check them in a quick process."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from trainer.config.examples import find_record
from trainer.config.load import load_config
from trainer.config.rules.ranges import check_ranges
from trainer.config.schema import TrainConfig
from trainer.data.checks import check_datasets
from trireme.config.fields import overlaps
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer
from trireme.tokenizer.words import MASK_NAMES, find_mask_token, read_word_list


def find_data_errors(overrides: Sequence[str]) -> list[Violation]:
    """Return the errors of the tokenizer and the shards that a command line names.

    Args:
        overrides: of the command line; their own errors are not returned.
    Returns:
        Errors that do not depend on a setting that has an error itself.
    """
    found: list[Violation] = []

    def check(config: TrainConfig, doubtful: Collection[str]) -> list[Violation]:
        out_of_range = {violation.path for violation in check_ranges(config)}
        found.extend(check_independent_data(config, doubtful={*doubtful, *out_of_range}))
        return []

    try:
        config = load_config(overrides, check=check)
    except ConfigError:
        return found
    check(config, ())
    return found


def check_independent_data(
    config: TrainConfig, *, doubtful: Collection[str], unread: Collection[str] = ()
) -> list[Violation]:
    """Check tokenizer and shards as far as they do not depend on settings that have errors.

    Args:
        doubtful: paths of those settings; in `config`, they have other values than the user intended.
        unread: paths that the command does not read.
    """
    tokenizer, violations = None, []
    has_tokenizer_path = not overlaps("tokenizer.path", doubtful)
    if has_tokenizer_path:
        tokenizer, found = open_tokenizer(config)
        violations = [violation for violation in found if not overlaps(violation.path, doubtful)]
    is_size_known = has_tokenizer_path and not overlaps("model.vocab_size", doubtful)
    vocab_size = config.model.vocab_size or (tokenizer.vocab_size if tokenizer else None)
    skipped = [*doubtful, *unread]
    data = config.data
    data = dataclasses.replace(data, train=[] if overlaps("data.train", skipped) else data.train)
    data = dataclasses.replace(data, validation=[] if overlaps("data.validation", skipped) else data.validation)
    return [
        *violations,
        *check_datasets(
            data,
            tokenizer_path=config.tokenizer.path if has_tokenizer_path else None,
            # 1: not compared with the length of a shard.
            seq_length=1 if overlaps("model.seq_length", doubtful) else config.model.seq_length,
            vocab_size=vocab_size if is_size_known else None,
            task=config.finetune.task,
        ),
    ]


def check_data_files(config: TrainConfig, vocab_size: int) -> list[Violation]:
    """Check the shards and compare them with tokenizer and model."""
    return _check_class_weights(config) + check_datasets(
        config.data,
        tokenizer_path=config.tokenizer.path,
        seq_length=config.model.seq_length,
        vocab_size=vocab_size or None,
        task=config.finetune.task,
    )


def _check_class_weights(config: TrainConfig) -> list[Violation]:
    """Report weights of classes where the label of an example is not one class."""
    record = find_record(config.data.train) if config.finetune.class_weights else None
    if record is None or record.task != "classify" or record.target_kind == "single":
        return []
    weights = f"[{', '.join(f'{weight:g}' for weight in config.finetune.class_weights)}]"
    labels = {"multi": "sets of classes", "value": "numbers"}[record.target_kind]
    message, fix = f"requires one class an example, and data.train has {labels}", "Remove it."
    return [Violation(path="finetune.class_weights", value=weights, message=message, fix=fix)]


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
    return tokenizer, violations + _check_masking(config, tokenizer)


def _check_masking(config: TrainConfig, tokenizer: Tokenizer) -> list[Violation]:
    """Check what hiding tokens needs of the tokenizer, and the list of words."""
    data = config.data
    if data.mask_prob is None:
        return []
    violations = []
    if data.mask_token_id is None and find_mask_token(tokenizer) is None:
        message = f"must be set, because tokenizer.path={tokenizer.path} has none of {', '.join(MASK_NAMES)}"
        fix = "Set it to a token that no text produces, or train the tokenizer with [MASK] as a special token."
        violations.append(Violation(path="data.mask_token_id", value="null", message=message, fix=fix))
    if data.mask_word_list is not None:
        try:
            read_word_list(data.mask_word_list, setting="data.mask_word_list")
        except ConfigError as error:
            violations += error.violations
    return violations
