"""Define the group of distillation."""

from dataclasses import dataclass

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Distillation: the model also learns the probabilities that a larger one gives to every token.

    Source: Hinton et al. 2015 (arXiv:1503.02531).
    """

    teacher: PathText | None = None
    """Run directory or checkpoint of the teacher, which has the same vocabulary and runs under the same layout; null
    trains without one."""
    weight: float = 0.5
    """Share of the teacher in the loss: weight * KL(teacher, model) + (1 - weight) * cross entropy of next tokens."""
    temperature: float = 1.0
    """Both models' logits are divided by it in the divergence, which is multiplied by its square."""

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher."""
        return self.teacher is not None
