"""Score predicted classes, and how well their probabilities are calibrated. n: examples, k: classes."""

import numpy as np

NUM_BINS = 15
"""Equal bins of confidence for the calibration error, as in its source."""


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of classes: [..., k] scores to [..., k] float64."""
    wide = scores.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Return the probability of each class on its own: any shape to float64."""
    probabilities: np.ndarray = np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))
    return probabilities


def count_confusions(predicted: np.ndarray, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Count examples by label (row) and prediction (column): [n] and [n] integers to [k, k] int64."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def score_classes(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score predictions of one class per example.

    Args:
        scores: [n, k], n > 0, before softmax.
        labels: [n] integers.
    Returns:
        accuracy; f1_macro, the mean F1 of all classes that occur among labels or predictions; f1_micro, here equal to
        accuracy; matthews_correlation, 0 where all labels or all predictions are one class; calibration_error, see
        `find_calibration_error`; brier, the mean over examples of the squared errors of all k probabilities, summed.
    Source: Gorodkin 2004 (Matthews' correlation of k classes); Brier 1950.
    """
    num_classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    confusions = count_confusions(predicted, labels, num_classes=num_classes)
    probabilities = softmax(scores)
    accuracy = float(np.trace(confusions) / len(labels))
    right = predicted == labels
    return {
        "accuracy": accuracy,
        "f1_macro": _macro_f1(confusions),
        "f1_micro": accuracy,
        "matthews_correlation": _correlate_classes(confusions),
        "calibration_error": find_calibration_error(probabilities.max(axis=1), right),
        "brier": float(np.square(probabilities - np.eye(num_classes)[labels]).sum(axis=1).mean()),
    }


def score_sets(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score predictions of a set of classes per example: those whose score is above 0, a probability above a half.

    Args:
        scores: [n, k], n > 0, before the sigmoid.
        labels: [n, k], 1 for the classes of an example.
    Returns:
        accuracy, the share of examples whose set is right; f1_micro over all decisions; f1_macro, the mean F1 of the
        classes, 0 for one that neither occurs nor is predicted; brier, the mean squared error of all probabilities.
    """
    predicted, truth = scores > 0, labels.astype(bool)
    hits = (predicted & truth).sum(axis=0)
    sizes = predicted.sum(axis=0) + truth.sum(axis=0)
    by_class = np.divide(2 * hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)
    return {
        "accuracy": float((predicted == truth).all(axis=1).mean()),
        "f1_macro": float(by_class.mean()),
        "f1_micro": float(2 * hits.sum() / sizes.sum()) if sizes.sum() else 0.0,
        "brier": float(np.square(sigmoid(scores) - truth).mean()),
    }


def find_calibration_error(confidences: np.ndarray, is_right: np.ndarray) -> float:
    """Return the expected calibration error: how far, on average, confidence is from the share of right answers.

    Args:
        confidences: [n] probabilities of the predictions.
        is_right: [n] bool.
    Returns:
        The mean of |share right - mean confidence| over `NUM_BINS` equal bins of confidence, weighted by examples.
    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    # Bins are open below and closed above.
    bins = np.clip(np.ceil(confidences * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, weights=is_right - confidences, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def _macro_f1(confusions: np.ndarray) -> float:
    sizes = confusions.sum(axis=0) + confusions.sum(axis=1)
    occurs = sizes > 0
    return float((2 * np.diag(confusions)[occurs] / sizes[occurs]).mean())


def _correlate_classes(confusions: np.ndarray) -> float:
    counts = confusions.astype(np.float64)
    total, right = counts.sum(), np.trace(counts)
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    spread = (total**2 - predicted @ predicted) * (total**2 - labelled @ labelled)
    return float((right * total - labelled @ predicted) / np.sqrt(spread)) if spread > 0 else 0.0
