"""Train on a teacher's probabilities: the teacher runs before each step, under the model's own layout."""

from collections.abc import Callable, Sequence

import torch
from torch import distributed

from trainer.data.micro_batch import MicroBatch
from trainer.engine.objective import BatchObjective, Objective, TokenObjective
from trainer.model.cross_entropy import vocab_parallel_cross_entropy
from trainer.model.divergence import vocab_parallel_divergence

RunTeacher = Callable[[Sequence[MicroBatch], Callable[[torch.Tensor, MicroBatch], None]], object]
"""Runs a frozen model on this rank's micro batches; calls its second argument with the logits [b, s, v] of each one on
the last pipeline stage."""


class LogitsObjective(BatchObjective):
    """Ask a model for logits, for their own sake."""

    takes_labels = False

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return 0."""
        return batch.loss_mask.sum() * 0


class DistillationObjective(BatchObjective):
    """Sum weight * KL(teacher, model) + (1 - weight) * cross entropy over the tokens that the loss mask counts.

    Validations measure the cross entropy alone, so that they compare with those of any other run.

    Args:
        run_teacher: runs the teacher; its logits of a step are kept until the step's end.
        weight: share of the divergence.
        temperature: see `vocab_parallel_divergence`.
        group: tensor-parallel ranks.
        vocab_size: tokens, without padding.
    """

    takes_labels = False

    def __init__(
        self,
        run_teacher: RunTeacher,
        *,
        weight: float,
        temperature: float,
        group: distributed.ProcessGroup,
        vocab_size: int,
    ) -> None:
        self._run_teacher = run_teacher
        self._weight, self._temperature = weight, temperature
        self._group, self._vocab_size = group, vocab_size
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Run the teacher on a step's micro batches."""
        self._logits = {}
        self._run_teacher(micro_batches, self._keep)

    def _keep(self, logits: torch.Tensor, batch: MicroBatch) -> None:
        self._logits[batch.sample_ids] = logits

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return the masked sum of the losses of logits [b, s, v]."""
        divergence = vocab_parallel_divergence(
            output,
            teacher_logits=self._logits.pop(batch.sample_ids),
            temperature=self._temperature,
            group=self._group,
            vocab_size=self._vocab_size,
        )
        losses = vocab_parallel_cross_entropy(output, batch.labels, group=self._group, vocab_size=self._vocab_size)
        return ((self._weight * divergence + (1 - self._weight) * losses) * batch.loss_mask).sum()

    def for_validation(self) -> Objective:
        """Return the objective of the next token."""
        return TokenObjective()
