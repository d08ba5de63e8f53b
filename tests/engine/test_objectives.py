"""Each task's loss equals that of torch's own functions on the same scores, one target at a time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainer.data.labelled_rows import RowsConfig, build_labelled_batch
from trainer.data.micro_batch import MicroBatch
from trainer.engine.objective import PreferenceObjective, ScoreObjective, SpanObjective, number_documents
from trireme.shards.examples import NO_LABEL, Task, encode_labels

_CLASSES = 3


def _batch(task: Task, rows: Sequence[Sequence[Sequence[int]]], *, class_weights: tuple[float, ...] = ()) -> MicroBatch:
    """Build a micro batch of rows of documents, each a list of labels."""
    labels = np.array([[label for document in row for label in document] for row in rows])
    starts = np.array([[at == 0 for document in row for at in range(len(document))] for row in rows])
    codes = encode_labels(labels, starts=starts)
    tokens = torch.zeros(labels.shape, dtype=torch.int64)
    return build_labelled_batch(
        tokens, codes, sample_ids=tuple(range(len(rows))), config=RowsConfig(task=task, class_weights=class_weights)
    )


_N = NO_LABEL
CLASSIFY = [[[2, _N, _N], [0, _N], [_N]], [[1, _N, _N, _N], [_N, _N]]]


def test_documents_are_numbered_and_positions_restart() -> None:
    batch = _batch("classify", CLASSIFY)
    assert batch.document_starts is not None
    assert batch.document_starts.tolist() == [[0, 0, 0, 3, 3, 5], [0, 0, 0, 0, 4, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]]
    assert number_documents(batch.document_starts).tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("weights", [(), (1.0, 0.25, 3.0)])
def test_class_loss_is_the_weighted_cross_entropy(weights: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    batch, scores = _batch("classify", CLASSIFY, class_weights=weights), torch.randn(2, 6, _CLASSES)
    objective = ScoreObjective("single")
    mean = objective.sum_losses(scores, batch) / objective.count_targets(batch)
    picked = torch.stack([scores[0, 0], scores[0, 3], scores[1, 0]])
    weight = torch.tensor(weights) if weights else None
    expected = functional.cross_entropy(picked, torch.tensor([2, 0, 1]), weight=weight)
    torch.testing.assert_close(mean, expected)


def test_loss_of_sets_is_the_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    # Bits of the classes: {0, 2}, {}, {1}.
    batch, scores = _batch("classify", [[[0b101, _N], [0, _N], [0b010, _N]]]), torch.randn(1, 6, _CLASSES)
    objective = ScoreObjective("multi")
    mean = objective.sum_losses(scores, batch) / objective.count_targets(batch)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(mean, functional.binary_cross_entropy_with_logits(scores[0, ::2], targets))


def test_loss_of_numbers_is_the_squared_error() -> None:
    torch.manual_seed(0)
    batch, scores = _batch("classify", [[[0, _N], [2**30, _N], [2**29, _N]]]), torch.randn(1, 6, 1)
    objective = ScoreObjective("value", value_range=(-4.0, 4.0))
    mean = objective.sum_losses(scores, batch) / objective.count_targets(batch)
    torch.testing.assert_close(mean, functional.mse_loss(scores[0, ::2, 0], torch.tensor([-4.0, 4.0, 0.0])))


def test_span_loss_takes_the_tokens_of_its_own_document() -> None:
    torch.manual_seed(0)
    # Answers: tokens 1 to 2 of the first document, none (0, 0) in the second; the padding has none to give.
    batch, scores = _batch("qa", [[[1, 2, _N, _N], [0, 0, _N], [_N, _N]]]), torch.randn(1, 9, 2, requires_grad=True)
    objective = SpanObjective()
    assert objective.count_targets(batch) == 2
    total = objective.sum_losses(scores, batch)
    one = [functional.cross_entropy(scores[0, :4, side], torch.tensor(at)) for side, at in ((0, 1), (1, 2))]
    other = [functional.cross_entropy(scores[0, 4:7, side], torch.tensor(0)) for side in (0, 1)]
    torch.testing.assert_close(total, (sum(one) + sum(other)) / 2)
    (gradient,) = torch.autograd.grad(total, scores)
    assert gradient[0, 7:].abs().max() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_preference_loss_is_that_of_dpo(smoothing: float) -> None:
    torch.manual_seed(0)
    batch = _batch("dpo", [[[_N, 5, 6], [_N, 7], [_N]], [[_N, 5], [_N, 6], [_N, _N]]])
    losses, reference = torch.rand(2, 6), torch.rand(2, 6)
    batch = MicroBatch(**{**vars(batch), "reference_losses": reference})
    objective = PreferenceObjective(beta=0.3, label_smoothing=smoothing)
    assert objective.count_targets(batch) == 2
    expected = 0.0
    for row, chosen, rejected in ((0, [1, 2], [4]), (1, [1], [3])):
        # Log-probabilities are losses with the other sign.
        gain = {True: 0.0, False: 0.0}
        for is_chosen, places in ((True, chosen), (False, rejected)):
            gain[is_chosen] = sum(float(reference[row, at] - losses[row, at]) for at in places)
        margin = 0.3 * (gain[True] - gain[False])
        sigmoid = 1 / (1 + math.exp(-margin))
        expected -= (1 - smoothing) * math.log(sigmoid) + smoothing * math.log(1 - sigmoid)
    assert float(objective.sum_losses(losses, batch)) == pytest.approx(expected, rel=1e-6)
