"""Check settings of distillation."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation

_TEACHER = "distill.teacher"


@reads(_TEACHER, "finetune.task")
def _teacher_knows_tokens(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    teacher, task = config.distill.teacher, config.finetune.task
    if teacher is not None and task not in (None, "sft"):
        yield Violation(
            path=_TEACHER,
            value=teacher,
            message=f"not supported with finetune.task={task}: a teacher gives probabilities of tokens",
            fix="Use null, or finetune.task=sft.",
        )


@reads(_TEACHER, "model.transformer_impl")
def _layers_are_torch(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    teacher, implementation = config.distill.teacher, config.model.transformer_impl
    if teacher is not None and implementation == "transformer_engine":
        yield Violation(
            path=_TEACHER,
            value=teacher,
            message="not supported with model.transformer_impl=transformer_engine",
            fix="Use model.transformer_impl=torch.",
        )


RULES = (_teacher_knows_tokens, _layers_are_torch)
