"""Check names, data sets and paths on this host."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.config.rules.rule import reads
from trainer.config.run import DatasetConfig
from trainer.config.schema import RESUME_KEYWORDS, TrainConfig
from trireme.config.suggest import did_you_mean, join_or, nearest_values, to_yaml
from trireme.errors import Violation
from trireme.files import nearest_existing_parent

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_FILE_NAME = 255


@reads("run_name")
def _run_name_is_plain(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    name = config.run_name
    if not _PLAIN_NAME.fullmatch(name) or len(name) > _LONGEST_FILE_NAME:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-").rstrip("-")[:_LONGEST_FILE_NAME] or "default"
        yield Violation(
            path="run_name",
            value=repr(name),
            message="must be a directory name of letters, digits, '.', '_' and '-' that begins with a letter or digit",
            fix=f"Use {plain}",
        )


@reads("output_dir", "run_name")
def _run_directory_is_writable(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    directory = Path(config.output_dir, config.run_name)
    existing = nearest_existing_parent(directory)
    if not existing.is_dir():
        yield Violation(
            path="output_dir",
            value=config.output_dir,
            message=f"cannot create the run directory {directory}: {existing} is a file",
            fix="Set it to a directory that you can write to.",
        )
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Violation(
            path="output_dir",
            value=config.output_dir,
            message=f"cannot create the run directory {directory}: no permission to write to {existing}",
            fix="Set it to a directory that you can write to.",
        )


@reads("resume", "output_dir", "run_name")
def _resume_exists(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    resume = config.resume
    # A run with checkpoints of its own may have been forked from it, or rolled back to it: see `check_resume`.
    has_own = any(Path(config.output_dir, config.run_name, "checkpoints").glob("step_*/manifest.json"))
    if resume not in RESUME_KEYWORDS and not Path(resume).exists() and not has_own:
        hint = did_you_mean(resume, RESUME_KEYWORDS)
        yield Violation(
            path="resume",
            value=resume,
            message="must be auto, never, restart, or an existing path",
            fix=f"{hint}Use {nearest_checkpoints(resume)}auto, never, restart, or the path of a checkpoint or run"
            " directory.",
        )


def nearest_checkpoints(resume: str) -> str:
    """Return `step_00000004 or step_00000008; or use ` for a missing checkpoint next to others, or an empty text."""
    asked, step = Path(resume), re.compile(r"step_(\d+)")
    if not (wanted := step.fullmatch(asked.name)) or not asked.parent.is_dir() or not os.access(asked.parent, os.R_OK):
        return ""
    there = [int(found[1]) for entry in asked.parent.iterdir() if (found := step.fullmatch(entry.name))]
    if not there:
        return ""
    names = join_or(f"step_{number:08d}" for number in nearest_values(int(wanted[1]), there, count=3))
    return f"{names}; or use "


@reads("tokenizer.path")
def _tokenizer_exists(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    path = config.tokenizer.path
    if path is not None and not Path(path).is_file():
        rule = "must be a file, not a directory" if Path(path).is_dir() else "no such file"
        yield Violation(
            path="tokenizer.path",
            value=path,
            message=rule,
            fix="Set it to the .model or tokenizer.json that the shards were made with, or use null and set"
            " model.vocab_size.",
        )


def _check_datasets(path: str, datasets: list[DatasetConfig]) -> Iterator[Violation]:
    for number, dataset in enumerate(datasets):
        place = f"{path}[{number}]"
        if not (0 < dataset.weight < float("inf")):
            yield Violation(
                path=f"{place}.weight",
                value=to_yaml(dataset.weight),
                message="must be a positive, finite number",
                fix="Use a weight such as 1.0, or remove the data set.",
            )
        if not dataset.paths:
            yield Violation(
                path=f"{place}.paths",
                value="[]",
                message="must contain at least one shard prefix",
                fix=f"Set {place}.paths to [/path/prefix]",
            )
        for prefix in dataset.paths:
            stem = prefix.removesuffix(".bin").removesuffix(".idx")
            if stem != prefix:
                yield Violation(
                    path=f"{place}.paths",
                    value=prefix,
                    message="must be a shard prefix, the path without .bin and .idx",
                    fix=f"Use {stem}",
                )


@reads("data.train", "data.validation")
def _datasets_are_named(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if not config.data.train:
        yield Violation(
            path="data.train",
            value="",
            message="no training data configured",
            fix="Set data.train=[{paths:[/path/prefix]}]",
        )
    yield from _check_datasets("data.train", config.data.train)
    yield from _check_datasets("data.validation", config.data.validation)


@reads("resume", "pretrained_checkpoint")
def _weights_come_from_one_place(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.pretrained_checkpoint is not None and config.resume not in RESUME_KEYWORDS:
        yield Violation(
            path="pretrained_checkpoint",
            value=config.pretrained_checkpoint,
            message=f"cannot be combined with resume={config.resume}, which takes weights and step from there",
            fix="Remove one of them.",
        )


RULES = (
    _run_name_is_plain,
    _run_directory_is_writable,
    _resume_exists,
    _weights_come_from_one_place,
    _tokenizer_exists,
    _datasets_are_named,
)
