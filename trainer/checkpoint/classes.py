"""Compare the classes of examples with those that a checkpoint's head tells apart: scores are in an order."""

import json
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint.pretrained import find_fresh_tensors
from trainer.checkpoint.trainer_state import ORIGIN_NAME, read_state
from trainer.config.examples import find_record
from trainer.config.model import ModelConfig
from trainer.config.pretrained import PRETRAINED
from trainer.config.run import DatasetConfig
from trireme.errors import Violation
from trireme.shards.examples import ExamplesRecord, read_record

_MAX_SHOWN = 8


def check_resumed_classes(datasets: Sequence[DatasetConfig], *, checkpoint: Path, path: str) -> list[Violation]:
    """Return why examples do not fit a checkpoint that learned the same task: other classes, or another order.

    Args:
        datasets: of the run.
        checkpoint: a complete one.
        path: the user's path of the data sets.
    """
    ours, saved = find_record(datasets), read_record(checkpoint)
    if ours is None or saved is None or ours.task != saved.task:
        return []
    if ours.target_kind != saved.target_kind:
        message = f"has examples with {_KINDS[ours.target_kind]}, and {checkpoint} learned {_KINDS[saved.target_kind]}"
        fix = "Use examples of that kind."
        return [Violation(path=path, value=_name(datasets), message=message, fix=fix)]
    if ours.labels == saved.labels:
        return []
    return [_differ(ours.labels, saved.labels, datasets, checkpoint=checkpoint, path=path)]


def check_pretrained_classes(
    datasets: Sequence[DatasetConfig], *, model: ModelConfig, checkpoint: Path
) -> list[Violation]:
    """Return why the scores of a checkpoint whose head a run takes over are those of its classes in another order.

    Args:
        datasets: of the run.
        model: of the run.
        checkpoint: a complete one, whose model fits.
    """
    ours, theirs = compare_classes(datasets, model=model, checkpoint=checkpoint)
    if ours == theirs or sorted(ours) != sorted(theirs):
        return []
    otherwise = f", or use another {PRETRAINED}"
    return [_differ(ours, theirs, datasets, checkpoint=checkpoint, path="data.train", otherwise=otherwise)]


def compare_classes(
    datasets: Sequence[DatasetConfig], *, model: ModelConfig, checkpoint: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of the examples and of the checkpoint whose scores a run takes over; both empty otherwise."""
    ours = find_record(datasets)
    if ours is None or not ours.labels or model.num_scores is None:
        return (), ()
    if "head.classifier." in find_fresh_tensors(model, read_state(checkpoint).model_config()):
        return (), ()
    theirs = _read_classes(checkpoint)
    return (ours.labels, theirs) if theirs else ((), ())


_KINDS = {"single": "one class each", "multi": "sets of classes", "value": "numbers"}


def _read_classes(checkpoint: Path) -> tuple[str, ...]:
    """Return the names of the scores of a checkpoint; empty where it has none."""
    record: ExamplesRecord | None = read_record(checkpoint)
    if record is not None:
        return record.labels
    try:
        labels = json.loads((checkpoint / ORIGIN_NAME).read_bytes()).get("labels")
    except (OSError, ValueError, AttributeError):
        return ()
    return tuple(map(str, labels or ()))


def _differ(
    ours: Sequence[str],
    theirs: Sequence[str],
    datasets: Sequence[DatasetConfig],
    *,
    checkpoint: Path,
    path: str,
    otherwise: str = "",
) -> Violation:
    is_order = sorted(ours) == sorted(theirs)
    message = f"has {'the classes in another order than' if is_order else 'other classes than'} {checkpoint}:"
    return Violation(
        path=path,
        value=_name(datasets),
        message=f"{message} {_show(ours)} instead of {_show(theirs)}",
        fix=f"Prepare the examples with those labels in that order (--labels){otherwise}.",
    )


def _name(datasets: Sequence[DatasetConfig]) -> str:
    return datasets[0].paths[0]


def _show(labels: Sequence[str]) -> str:
    return f"[{', '.join(labels[:_MAX_SHOWN])}{', ...' if len(labels) > _MAX_SHOWN else ''}]"
