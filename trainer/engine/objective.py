"""Compute the loss of a micro batch from the model's output, by task. b: sequences, s: tokens of a sequence.

An objective counts the targets of a micro batch and sums their losses. The engines make the gradient that of the sum of
all losses of the global batch over its number of targets, under every layout, so that targets weigh alike however they
are spread over ranks and micro batches.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from trainer.data.micro_batch import MicroBatch
from trireme.shards.examples import TargetKind


class Objective(Protocol):
    """Turn a model's output into losses."""

    takes_labels: bool
    """Whether the model is given labels and returns the loss of each token, [b, s]; otherwise it returns scores."""

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Prepare this rank's micro batches of a step before the model runs on them; all ranks call this."""
        ...

    def for_validation(self) -> "Objective":
        """Return the objective by which validations measure the model."""
        ...

    def count_targets(self, batch: MicroBatch) -> torch.Tensor:
        """Return the number of targets of a micro batch, weighted as their losses are: a scalar, fp32."""
        ...

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of the losses of all targets: a scalar, fp32.

        Args:
            output: of the model; under context parallelism this rank's part of the sequence.
            batch: on the model's device, the same part of the sequence.
        """
        ...


class BatchObjective:
    """Implement what most objectives share: the loss mask counts, and validations measure what is trained."""

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Do nothing."""

    def for_validation(self: Objective) -> Objective:
        """Return itself."""
        return self

    def count_targets(self, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of the loss mask, in which classes may have weights."""
        return batch.loss_mask.sum()


class TokenObjective(BatchObjective):
    """Sum the losses of the tokens that the loss mask counts: pretraining, masked tokens, answers of an assistant."""

    takes_labels = True

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the masked sum of token losses [b, s]."""
        return (output.float() * batch.loss_mask).sum()


class ScoreObjective(BatchObjective):
    """Sum the losses of scores where there are labels: classes of texts or words, sets of classes, numbers.

    Args:
        kind: `single` takes the cross entropy of the class, `multi` the mean binary cross entropy over all classes,
            `value` the squared error; those of transformers' problem types.
        value_range: of `value`, see `ExamplesRecord`.
    """

    takes_labels = False

    def __init__(self, kind: TargetKind, *, value_range: tuple[float, float] | None = None) -> None:
        self._kind = kind
        self._value_range = value_range

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of the losses of scores [b, s, classes], weighted by the loss mask."""
        is_target = batch.loss_mask > 0
        scores, labels, weights = output[is_target].float(), batch.labels[is_target], batch.loss_mask[is_target]
        if self._kind == "single":
            losses = functional.cross_entropy(scores, labels, reduction="none")
        elif self._kind == "multi":
            targets = (labels[:, None] >> torch.arange(scores.shape[1], device=labels.device)) & 1
            losses = functional.binary_cross_entropy_with_logits(scores, targets.float(), reduction="none").mean(dim=1)
        else:
            assert self._value_range is not None
            low, high = self._value_range
            values = low + labels.float() / 2**30 * (high - low)
            losses = (scores[:, 0] - values).square()
        # 0 * output keeps a graph where this micro batch has no target.
        return (losses * weights).sum() + 0 * output.float().sum()


class SpanObjective(BatchObjective):
    """Sum the losses of answers: the mean of the cross entropies of first and last token over the tokens of a document.

    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805), section 4.2.
    """

    takes_labels = False

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of losses of scores [b, s, 2]."""
        assert batch.document_starts is not None
        row, first = torch.nonzero(batch.loss_mask > 0, as_tuple=True)
        scores = output.float()
        document = number_documents(batch.document_starts)
        size = batch.document_starts.shape[1]
        # [b, s, 2] -> [b, documents, 2]
        totals = _logsumexp_by_document(scores, document, num_documents=size)
        normalizers = totals[row, document[row, first]]
        places = torch.stack([batch.labels[row, first], batch.labels[row, first + 1]], dim=1) + first[:, None]
        chosen = torch.stack([scores[row, places[:, side], side] for side in (0, 1)], dim=1)
        return (normalizers - chosen).mean(dim=1).sum() + 0 * scores.sum()


class PreferenceObjective(BatchObjective):
    """Sum the losses of pairs of answers, of which the first is preferred: direct preference optimization.

    Each row holds documents 2k (chosen) and 2k + 1 (rejected), then padding. The model's log-probability of an answer
    is compared with that of a frozen reference model, whose token losses come with the batch.

    Args:
        beta: strength with which the reference holds the model.
        label_smoothing: share of pairs that are taken as labelled the wrong way round.
    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7; label smoothing: Mitchell 2023, conservative DPO.
    """

    takes_labels = True

    def __init__(self, *, beta: float, label_smoothing: float = 0.0) -> None:
        self._beta, self._label_smoothing = beta, label_smoothing

    def count_targets(self, batch: MicroBatch) -> torch.Tensor:
        """Return the number of pairs."""
        return self._is_pair(batch).sum().float()

    def margins(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return how much more the model prefers each chosen answer than its reference does, times beta: [pairs]."""
        assert batch.reference_losses is not None
        gains = (batch.reference_losses - output.float()) * batch.loss_mask
        by_document = self._sum_by_document(gains, batch)
        margins = self._beta * (by_document[:, 0::2] - by_document[:, 1::2])
        return margins[self._is_pair(batch)]

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the sum of the losses of pairs, from token losses [b, s]."""
        margins = self.margins(output, batch)
        wrong = self._label_smoothing
        losses = -functional.logsigmoid(margins) * (1 - wrong) - functional.logsigmoid(-margins) * wrong
        return losses.sum() + 0 * output.float().sum()

    def _is_pair(self, batch: MicroBatch) -> torch.Tensor:
        """[b, s / 2] bool: which pairs of documents have targets."""
        counts = self._sum_by_document(batch.loss_mask, batch)
        return (counts[:, 0::2] > 0) & (counts[:, 1::2] > 0)

    def _sum_by_document(self, values: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """[b, s] to [b, s rounded up to even]: the sum of each document."""
        assert batch.document_starts is not None
        size = values.shape[1] + values.shape[1] % 2
        sums = values.new_zeros(values.shape[0], size)
        return sums.scatter_add(1, number_documents(batch.document_starts), values)


def number_documents(document_starts: torch.Tensor) -> torch.Tensor:
    """Number the documents of each row from 0: [b, s] int32 starts to [b, s] int64."""
    positions = torch.arange(document_starts.shape[1], device=document_starts.device)
    return (document_starts == positions).cumsum(dim=1) - 1


def _logsumexp_by_document(scores: torch.Tensor, document: torch.Tensor, *, num_documents: int) -> torch.Tensor:
    """[b, s, k] to [b, num_documents, k], -inf for documents that there are not."""
    index = document[:, :, None].expand_as(scores)
    shape = (scores.shape[0], num_documents, scores.shape[2])
    tops = scores.detach().new_full(shape, -torch.inf).scatter_reduce(1, index, scores.detach(), "amax")
    sums = scores.new_zeros(shape).scatter_add(1, index, (scores - tops.gather(1, index)).exp())
    return torch.where(sums > 0, sums.clamp(min=torch.finfo(sums.dtype).tiny).log() + tops, -torch.inf)
