"""Check a checkpoint whose weights a new run starts from, and keep imports from being resumed."""

import dataclasses
from pathlib import Path

from trainer.checkpoint.compatibility import check_model
from trainer.checkpoint.discovery import choose_at, resolve
from trainer.checkpoint.quantized import check_trainable
from trainer.checkpoint.trainer_state import read_state
from trainer.config.missing_checkpoint import find_missing_checkpoint
from trainer.config.model import ModelConfig
from trainer.config.pretrained import PRETRAINED
from trainer.run_directory.directory import must_restart
from trireme.errors import ConfigError, Violation

_OF_HEADS = frozenset(
    f"model.{name}"
    for name in (
        "head",
        "num_labels",
        "pooler",
        "head_bias",
        "vocab_bias",
        "untie_embeddings_and_output_weights",
    )
)
"""Fields that say nothing about the tensors below a task's head."""


def check_weights(model: ModelConfig, *, padded_vocab_size: int, checkpoint: Path) -> list[Violation]:
    """Return every field in which a model differs from a checkpoint's so that its weights cannot be loaded.

    A task's head may differ, or be missing there: see `find_fresh_tensors`.

    Args:
        model: of the run.
        padded_vocab_size: rows of its embedding.
        checkpoint: a complete one.
    """
    if quantized := check_trainable(checkpoint, path=PRETRAINED):
        return quantized
    state = read_state(checkpoint)
    found = check_model(model, padded_vocab_size=padded_vocab_size, state=state, checkpoint=checkpoint)
    if not model.has_output_layer:
        found = [one for one in found if one.path not in _OF_HEADS]
    otherwise = f", or remove model=PRESET to take the model of {PRETRAINED}"
    return [dataclasses.replace(one, fix=f"{one.fix.partition(' to resume')[0]}{otherwise}.") for one in found]


def find_fresh_tensors(model: ModelConfig, saved: ModelConfig) -> list[str]:
    """Return the beginnings of the names of a task head's tensors that a checkpoint does not have for it.

    The scoring layer is taken from a checkpoint with the same head and as many scores, layers before it from one that
    has them, among them the dense layer of a masked language model for `model.pooler=gelu`.

    Args:
        model: of the run.
        saved: of the checkpoint.
    """
    fresh = []
    if model.num_scores is not None and (model.head, model.num_scores) != (saved.head, saved.num_scores):
        fresh.append("head.classifier.")
    elif model.num_scores is not None and model.head_bias and not saved.head_bias:
        fresh.append("head.classifier.bias")
    has_pooler = not saved.has_output_layer and saved.pooler == model.pooler
    if model.pooler == "tanh" and not has_pooler:
        fresh.append("head.pooler.")
    if model.pooler == "gelu" and not (has_pooler or saved.head == "mlm"):
        fresh += ["head.dense.", "head.layernorm."]
    return fresh


def check_pretrained(path: str, *, model: ModelConfig, padded_vocab_size: int | None) -> list[Violation]:
    """Return everything that would keep a run from starting with the weights at a path; files are checked by size.

    Args:
        path: of `pretrained_checkpoint`.
        model: of the run.
        padded_vocab_size: rows of its embedding; None does not compare the model.
    """
    try:
        checkpoint = choose_at(Path(path), verify=False, name=PRETRAINED)
        if padded_vocab_size is None:
            return []
        return check_weights(model, padded_vocab_size=padded_vocab_size, checkpoint=checkpoint)
    except ConfigError as error:
        missing = find_missing_checkpoint(Path(path).expanduser())
        return [missing] if missing is not None else list(error.violations)


def check_contents(checkpoint: Path, *, path: str = "resume") -> list[Violation]:
    """Report a checkpoint that cannot be resumed, because it holds weights only.

    Args:
        checkpoint: a complete one.
        path: the user's path of it.
    """
    if read_state(checkpoint).contents == "training":
        return []
    message = "holds the weights of an import and no state of training, so it cannot be resumed"
    fix = f"Start a run with its weights: set {PRETRAINED}={checkpoint}, another run_name, and resume=auto."
    return [Violation(path=path, value=checkpoint, message=message, fix=fix)]


def find_resumed(resume: str, *, run_directory: Path) -> Path | None:
    """Return the checkpoint that a run would resume from, by file sizes; None for a new run or without a valid one."""
    if must_restart(resume, run_directory):
        return None
    try:
        return resolve(resume, run_directory=run_directory)
    except ConfigError:  # `check_resume` reports it
        return None
