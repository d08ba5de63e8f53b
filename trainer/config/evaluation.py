"""Define the group of the evaluation suite in the training loop."""

from dataclasses import dataclass, field

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Multiple-choice tasks that a run is evaluated on while it trains; see docs/inference/evaluation.md."""

    interval: int = 0
    """Steps between evaluations, of which the last step always gets one; 0 disables them."""
    tasks: list[PathText] = field(default_factory=list)
    """Names of the suite (cloze_en, cloze_zh, arithmetic_en, arithmetic_zh, copy_en, copy_zh, agreement_en,
    agreement_zh), or files of items; an empty list takes the whole suite."""
    num_items: int | None = None
    """Items of each task, the first ones; null takes all."""
