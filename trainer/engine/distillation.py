"""Train on a teacher's probabilities: the teacher runs before each step, under the model's own layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed

from trainer.data.micro_batch import MicroBatch
from trainer.engine.forward import PREDICT_NEXT, Observe, evaluate_step
from trainer.engine.objective import BatchObjective, Objective, TokenObjective
from trainer.model.cross_entropy import vocab_parallel_cross_entropy
from trainer.model.divergence import vocab_parallel_divergence


class LogitsObjective(BatchObjective):
    """Ask a model for logits, for their own sake."""

    takes_labels = False

    def sum_losses(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Return 0."""
        return batch.loss_mask.sum() * 0


@dataclass(frozen=True, kw_only=True)
class FrozenTeacher:
    """Hold a teacher's chunks on this rank, under the run's layout."""

    chunks: Sequence[GPTModel]
    groups: ProcessGroupCollection
    device: torch.device
    checkpoint: Path
    num_parameters: int
    """Of the whole teacher."""

    def run(self, micro_batches: Sequence[MicroBatch], observe: Observe) -> None:
        """Call `observe` with the logits [b, s, v] of each micro batch on the last pipeline stage."""
        self._evaluate(micro_batches, objective=LogitsObjective(), observe=observe)

    def evaluate(self, micro_batches: Sequence[MicroBatch], *, observe: Observe | None = None) -> tuple[float, float]:
        """Return the sum of losses and the number of targets of the global batch; see `Engine.evaluate`."""
        return self._evaluate(micro_batches, objective=PREDICT_NEXT, observe=observe)

    def _evaluate(
        self, micro_batches: Sequence[MicroBatch], *, objective: Objective, observe: Observe | None
    ) -> tuple[float, float]:
        return evaluate_step(
            self.chunks, micro_batches, groups=self.groups, device=self.device, objective=objective, observe=observe
        )


class DistillationObjective(BatchObjective):
    """Sum weight * KL(teacher, model) + (1 - weight) * cross entropy over the tokens that the loss mask counts.

    Validations measure the cross entropy alone, so that they compare with those of any other run.

    Args:
        teacher: its logits of a step are kept until the step's end.
        weight: share of the divergence.
        temperature: see `vocab_parallel_divergence`.
        group: tensor-parallel ranks.
        vocab_size: tokens, without padding.
    """

    takes_labels = False

    def __init__(
        self,
        teacher: FrozenTeacher,
        *,
        weight: float,
        temperature: float,
        group: distributed.ProcessGroup,
        vocab_size: int,
    ) -> None:
        self.teacher = teacher
        self._weight, self._temperature = weight, temperature
        self._group, self._vocab_size = group, vocab_size
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Run the teacher on a step's micro batches."""
        self._logits = {}
        self.teacher.run(micro_batches, self._keep)

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
