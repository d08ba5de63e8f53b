"""Check settings of the evaluation suite: it needs a model that continues text, and its tokenizer."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trainer.suite.items import check_task
from trireme.errors import Violation


@reads("evaluation.interval", "evaluation.tasks")
def _tasks_exist(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.evaluation.interval:
        for number, task in enumerate(config.evaluation.tasks):
            yield from check_task(task, path=f"evaluation.tasks[{number}]")


@reads("evaluation.interval", "tokenizer.path")
def _suite_needs_a_tokenizer(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.evaluation.interval and config.tokenizer.path is None:
        yield Violation(
            path="evaluation.interval",
            value=config.evaluation.interval,
            message="requires tokenizer.path: the tasks are texts",
            fix="Set tokenizer.path to the tokenizer of the shards, or use 0.",
        )


@reads("evaluation.interval", "model.attention_mask", "model.head", "finetune.task", "distill.teacher")
def _suite_needs_a_language_model(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if not config.evaluation.interval:
        return
    is_causal = config.model.head == "lm" and config.model.attention_mask == "causal"
    if not is_causal or config.finetune.task == "dpo" or config.distill.is_on:
        yield Violation(
            path="evaluation.interval",
            value=config.evaluation.interval,
            message="requires a model that is trained to predict next tokens: model.head=lm,"
            " model.attention_mask=causal, a finetune.task other than dpo and no distill.teacher",
            fix="Use 0, and evaluate the checkpoints with trireme harness.",
        )


RULES = (_tasks_exist, _suite_needs_a_tokenizer, _suite_needs_a_language_model)
