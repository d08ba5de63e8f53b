"""Score the predictions of a task. n: examples, k: classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.scores.classes import score_classes, score_sets
from trainer.scores.spans import score_spans
from trainer.scores.tags import score_tags
from trainer.scores.values import score_values
from trireme.shards.examples import TargetKind, Task

__all__ = ["score", "score_classes", "score_sets", "score_spans", "score_tags", "score_values"]


def score(task: Task, kind: TargetKind, predictions: Sequence[Any], labels: Sequence[Any]) -> dict[str, float]:
    """Score predictions by what their task is measured with; no predictions have no scores.

    Args:
        task: `classify`, `tag` or `qa`.
        kind: of `classify`, see `ExamplesRecord`.
        predictions: of each example: scores of the classes, [k], for classify with one or several classes; a number
            for `value`; tags of the words for tag; the answer for qa.
        labels: of each example: the class; numbers of the classes; a number; tags; right answers.
    Returns:
        Scores by name, those of `score_classes`, `score_sets`, `score_values`, `score_tags` or `score_spans`.
    """
    if not len(predictions):
        return {}
    if task == "tag":
        return score_tags(predictions, labels)
    if task == "qa":
        return score_spans(predictions, labels)
    assert task == "classify", f"{task} has no scores but its loss"
    scores = np.array(predictions, dtype=np.float64)
    if kind == "value":
        return score_values(scores.reshape(-1), np.array(labels, dtype=np.float64))
    if kind == "single":
        return score_classes(scores, np.array(labels, dtype=np.int64))
    members = np.zeros(scores.shape, dtype=np.int64)
    for row, classes in enumerate(labels):
        members[row, list(classes)] = 1
    return score_sets(scores, members)
