"""The tokenizer's files in the directory of a preparation.

A SentencePiece model is published as tokenizer.model; a trained one comes with a readable list of its pieces,
tokenizer.vocab. A tokenizer.json is published with a tokenizer_config.json, which names the end-of-document token.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.config.schema import TokenizerConfig
from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import ShardManifest, hash_file
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

SENTENCEPIECE_NAME = "tokenizer.model"
PIECES_NAME = "tokenizer.vocab"
HUGGINGFACE_NAME = "tokenizer.json"
HUGGINGFACE_CONFIG_NAME = "tokenizer_config.json"

TOKENIZER_NAMES = (SENTENCEPIECE_NAME, PIECES_NAME, HUGGINGFACE_NAME, HUGGINGFACE_CONFIG_NAME)
"""Every name that a preparation publishes of a tokenizer."""


def install_tokenizer(path: str | Path, directory: Path, *, eos_token: str | None = None) -> Path:
    """Copy a given tokenizer into a directory under its published name.

    Args:
        path: a file that data_prep.tokenizer.path may name, already validated.
        eos_token: as data_prep.tokenizer.eos_token.
    Returns:
        The copy, for `Tokenizer`.
    """
    tokenizer = Tokenizer(path)
    if not tokenizer.is_huggingface:
        target = directory / SENTENCEPIECE_NAME
        shutil.copyfile(path, target)
        return target
    target = directory / HUGGINGFACE_NAME
    shutil.copyfile(path, target)
    (directory / HUGGINGFACE_CONFIG_NAME).write_bytes(_build_config(tokenizer, eos_token=eos_token))
    return target


def find_tokenizer(directory: str | Path) -> Path | None:
    """Return the tokenizer that a preparation published in a directory; None when there is none."""
    names = (SENTENCEPIECE_NAME, HUGGINGFACE_NAME)
    return next((path for name in names if (path := Path(directory) / name).is_file()), None)


def open_shard_tokenizer(reader: ShardReader, manifest: ShardManifest | None, *, path: Path | None) -> Tokenizer | None:
    """Open the given tokenizer, or the one next to the shard; None if there is neither.

    Raises:
        ConfigError: it cannot be used, or it is not the shard's.
    """
    path = path or find_tokenizer(reader.prefix.parent)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer(path)
    except ConfigError as error:
        raise ConfigError(replace(violation, path="--tokenizer") for violation in error.violations) from error
    if manifest is not None and manifest.tokenizer_sha256 not in (None, tokenizer.sha256):
        rule = f"must be the tokenizer of {reader.prefix} with sha256 {manifest.tokenizer_sha256}"
        fix = "Set --tokenizer to the tokenizer of the shard."
        raise ConfigError([Violation(path="--tokenizer", value=tokenizer.path, message=rule, fix=fix)])
    if manifest is None and reader.num_tokens and tokenizer.vocab_size <= int(reader.tokens.max()):
        rule = f"has only {tokenizer.vocab_size} tokens, but {reader.prefix} contains token {int(reader.tokens.max())}"
        fix = "Set --tokenizer to the tokenizer of the shard."
        raise ConfigError([Violation(path="--tokenizer", value=tokenizer.path, message=rule, fix=fix)])
    return tokenizer


def describe_tokenizer(config: TokenizerConfig) -> dict[str, Any]:
    """Describe what determines the tokens of a given tokenizer: not its path, nor training settings.

    Args:
        config: with a path.
    """
    assert config.path is not None
    description = {"sha256": hash_file(config.path)}
    tokenizer = Tokenizer(config.path)
    if tokenizer.is_huggingface:
        description["config"] = _build_config(tokenizer, eos_token=config.eos_token).decode()
    return description


def _build_config(tokenizer: Tokenizer, *, eos_token: str | None) -> bytes:
    """Return the tokenizer_config.json next to a tokenizer.json, or a new one, that names its end and begin tokens."""
    new = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    record = tokenizer.read_config() or new
    for key, found in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id)):
        if found is not None:
            record.setdefault(key, tokenizer.token_name(found))
    if eos_token is not None:
        record["eos_token"] = eos_token
    return (json.dumps(record, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
