"""Read the short form of the task of fine-tuning on a command line."""

from collections.abc import Sequence


def with_task(arguments: Sequence[str]) -> list[str]:
    """Write `task=TASK` as the override `finetune.task=TASK`, first: a later one may change it."""
    tasks = [argument for argument in arguments if argument.startswith("task=")]
    others = [argument for argument in arguments if not argument.startswith("task=")]
    return [*(f"finetune.{task}" for task in tasks), *others]
