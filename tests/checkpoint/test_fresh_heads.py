"""A task's head takes from a checkpoint what fits it, and begins anew with the rest."""

import dataclasses
from typing import Any

import pytest

from tests.checkpoint.fragments import MODEL
from trainer.checkpoint.pretrained import find_fresh_tensors

CLASSES = dataclasses.replace(MODEL, head="classification", num_labels=3)
BASE = dataclasses.replace(MODEL, head="none")


@pytest.mark.parametrize(
    ("ours", "theirs", "fresh"),
    [
        ({}, {"head": "lm"}, ["head.classifier."]),
        ({}, {}, []),
        ({}, {"num_labels": 4}, ["head.classifier."]),
        ({}, {"head": "token_classification"}, ["head.classifier."]),
        ({}, {"head_bias": False}, ["head.classifier.bias"]),
        ({"pooler": "tanh"}, {"pooler": "tanh", "head": "none"}, ["head.classifier."]),
        ({"pooler": "tanh"}, {"head": "mlm"}, ["head.classifier.", "head.pooler."]),
        ({"pooler": "gelu"}, {"head": "mlm"}, ["head.classifier."]),
        ({"pooler": "gelu"}, {"head": "lm"}, ["head.classifier.", "head.dense.", "head.layernorm."]),
        ({"pooler": "gelu"}, {"pooler": "gelu"}, []),
        ({"head": "question_answering"}, {"head": "question_answering", "num_labels": None}, []),
    ],
)
def test_fresh_tensors(ours: dict[str, Any], theirs: dict[str, Any], fresh: list[str]) -> None:
    assert find_fresh_tensors(dataclasses.replace(CLASSES, **ours), dataclasses.replace(CLASSES, **theirs)) == fresh


def test_a_model_that_predicts_tokens_has_no_fresh_tensors() -> None:
    assert find_fresh_tensors(MODEL, BASE) == []
