"""Define the group of fine-tuning, and fill in what follows from the examples."""

from dataclasses import dataclass, field
from typing import Literal

from trireme.records import Task

Metric = Literal[
    "loss",
    "accuracy",
    "f1_macro",
    "f1_micro",
    "matthews_correlation",
    "spearman",
    "entity_f1",
    "exact_match",
    "f1",
    "reward_accuracy",
]
HEAD_OF_TASK: dict[Task, str] = {
    "sft": "lm",
    "dpo": "lm",
    "classify": "classification",
    "tag": "token_classification",
    "qa": "question_answering",
}
"""Which head of the model each task trains."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning on examples from `trireme prepare-examples`; see docs/finetuning/."""

    task: Task | None = None
    """What the rows of data.train are, and the loss: sft predicts the assistant's tokens, classify a class or number of
    each text, tag a class of each word, qa the place of an answer, dpo prefers one answer to another. null pretrains on
    shards of text."""
    num_epochs: float | None = None
    """Passes over data.train, also a fraction. They decide the number of steps, and training.train_iters is not read;
    null takes training.train_iters."""
    class_weights: list[float] = field(default_factory=list)
    """Weight in the loss of each class or tag, in the order of their numbers; an empty list weighs all alike."""
    metric: Metric = "loss"
    """What validations compare checkpoints by, for checkpoint.keep_best and early_stopping_patience: the loss, where
    less is better, or a score of the task, where more is better."""
    early_stopping_patience: int | None = None
    """Validations without a new best after which the run ends; null never ends it early."""
    dpo_beta: float = 0.1
    """Strength with which dpo holds the model to its reference, the beta of Rafailov et al. 2023 (arXiv:2305.18290)."""
    dpo_label_smoothing: float = 0.0
    """Share of dpo's pairs that are taken as labelled the wrong way round (conservative DPO)."""
