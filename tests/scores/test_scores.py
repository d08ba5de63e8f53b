"""Scores equal those of scikit-learn, scipy, seqeval and the script of SQuAD on random predictions."""

import numpy as np
import pytest

from trainer.scores.classes import count_confusions, find_calibration_error, sigmoid, softmax
from trainer.scores.score import score
from trainer.scores.tags import Entity, find_entities

metrics = pytest.importorskip("sklearn.metrics")
seqeval = pytest.importorskip("seqeval.metrics")
stats = pytest.importorskip("scipy.stats")

ROUNDING = 1e-12
RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_classes(num_classes: int) -> None:
    scores = RANDOM.normal(size=(200, num_classes))
    labels = np.where(RANDOM.random(200) < 0.5, scores.argmax(axis=1), RANDOM.integers(num_classes, size=200))
    labels[labels == num_classes - 1] = 0 if num_classes > 2 else 1  # of five classes one is only predicted
    found = score("classify", "single", scores, labels)
    predicted = scores.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=ROUNDING)
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=ROUNDING)
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(labels, predicted, average="micro"), abs=ROUNDING)
    matthews = metrics.matthews_corrcoef(labels, predicted)
    assert found["matthews_correlation"] == pytest.approx(matthews, abs=ROUNDING) and matthews != 0
    probabilities = softmax(scores)
    kinds = list(range(num_classes))
    assert np.array_equal(
        count_confusions(predicted, labels, num_classes=num_classes),
        metrics.confusion_matrix(labels, predicted, labels=kinds),
    )
    brier = metrics.brier_score_loss(labels, probabilities, labels=kinds, scale_by_half=False)
    assert found["brier"] == pytest.approx(brier, abs=ROUNDING)


def test_one_class_has_no_correlation() -> None:
    found = score("classify", "single", np.eye(2)[[0, 0, 1]], np.array([1, 1, 1]))
    assert found["matthews_correlation"] == 0 and found["accuracy"] == pytest.approx(1 / 3)


def test_calibration_error() -> None:
    # Two bins: 0.95 confident and right in 8 of 10, 0.55 confident and right in 6 of 10.
    confidences = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 8 + [False] * 2 + [True] * 6 + [False] * 4)
    assert find_calibration_error(confidences, right) == pytest.approx((0.15 + 0.05) / 2)
    assert find_calibration_error(np.ones(3), np.ones(3, dtype=bool)) == 0


def test_sets_of_classes() -> None:
    scores = RANDOM.normal(size=(100, 6))
    truth = (scores + RANDOM.normal(size=scores.shape) > 0).astype(int)
    truth[:, 5] = 0
    scores[:, 5] = -1  # neither occurs nor is predicted
    found = score("classify", "multi", scores, [np.flatnonzero(row).tolist() for row in truth])
    predicted = (scores > 0).astype(int)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), abs=ROUNDING)
    for average in ("macro", "micro"):
        theirs = metrics.f1_score(truth, predicted, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(theirs, abs=ROUNDING)
    assert found["brier"] == pytest.approx(np.square(sigmoid(scores) - truth).mean(), abs=ROUNDING)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_values() -> None:
    labels = RANDOM.integers(10, size=80).astype(float)  # with ties
    predicted = labels + 3 * RANDOM.normal(size=80)
    predicted[:20] = predicted[20:40]
    found = score("classify", "value", predicted, labels)
    assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, labels).statistic, abs=ROUNDING)
    assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, labels).statistic, abs=ROUNDING)
    assert found["mean_squared_error"] == pytest.approx(metrics.mean_squared_error(labels, predicted))
    assert found["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(labels, predicted))
    assert score("classify", "value", np.ones(3), np.arange(3.0))["spearman"] == 0


def random_tags(num_texts: int) -> list[list[str]]:
    kinds = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-ORG"]
    return [[str(tag) for tag in RANDOM.choice(kinds, size=RANDOM.integers(1, 12))] for _ in range(num_texts)]


def test_tags() -> None:
    labels = random_tags(300)
    predicted = [[tag if RANDOM.random() < 0.8 else "I-PER" for tag in tags] for tags in labels]
    found = score("tag", "single", predicted, labels)
    assert found["entity_f1"] == pytest.approx(seqeval.f1_score(labels, predicted), abs=ROUNDING)
    assert found["entity_precision"] == pytest.approx(seqeval.precision_score(labels, predicted), abs=ROUNDING)
    assert found["entity_recall"] == pytest.approx(seqeval.recall_score(labels, predicted), abs=ROUNDING)
    macro = seqeval.f1_score(labels, predicted, average="macro")
    assert found["entity_f1_macro"] == pytest.approx(macro, abs=ROUNDING)
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(labels, predicted), abs=ROUNDING)
    assert 0.3 < found["entity_f1"] < 0.95


def test_entities() -> None:
    tags = ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG", "S-LOC", "I-LOC"]
    assert find_entities(tags) == [
        Entity(kind="PER", start=0, end=2),
        Entity(kind="PER", start=2, end=3),
        Entity(kind="LOC", start=4, end=5),
        Entity(kind="ORG", start=5, end=6),
        Entity(kind="LOC", start=6, end=7),
        Entity(kind="LOC", start=7, end=8),
    ]
    assert score("tag", "single", [["O"]], [["O"]])["entity_f1"] == 0


QUESTIONS = [
    ("The Eiffel tower!", ["Eiffel Tower", "a tower"], 1, 1),
    ("in 1889, by him", ["1889"], 0, 0.4),
    ("", ["Paris"], 0, 0),
    ("", [], 1, 1),
    ("Paris", [], 0, 0),
    ("a an the", [], 1, 1),
    ("the the cat", ["cat cat"], 0, 2 / 3),
    ("x-ray", ["xray"], 1, 1),
    ("Straße", ["strasse", "STRASSE"], 0, 0),
    ("nothing", ["something else"], 0, 0),
]
"""Predicted and right answers, and what squad_metrics.get_raw_scores of transformers 4.57.1, a form of the official
script, gives for them: exact match and F1. Version 5 no longer has it."""


def test_spans() -> None:
    for text, right, exact, f1 in QUESTIONS:
        assert score("qa", "single", [text], [right]) == {"exact_match": exact, "f1": pytest.approx(f1)}
    found = score("qa", "single", [one[0] for one in QUESTIONS], [one[1] for one in QUESTIONS])
    assert found["exact_match"] == pytest.approx(4 / 10) and found["f1"] == pytest.approx((4 + 0.4 + 2 / 3) / 10)
    assert found["has_answer_f1"] == pytest.approx((2 + 0.4 + 2 / 3) / 7)
    assert found["no_answer_exact_match"] == pytest.approx(2 / 3)


def test_nothing_has_no_scores() -> None:
    assert score("tag", "single", [], []) == {}
