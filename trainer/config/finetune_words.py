"""Read the short form of the task of fine-tuning on a command line."""

from collections.abc import Sequence


def with_task(arguments: Sequence[str]) -> list[str]:
    """Write `task=TASK` as the override `finetune.task=TASK`, and validate on all examples; later overrides may differ.

    A saved configuration has these settings already.
    """
    tasks = [argument for argument in arguments if argument.startswith("task=")]
    others = [argument for argument in arguments if not argument.startswith("task=")]
    if any(argument.startswith("config_file=") for argument in others):
        return others
    return [*(f"finetune.{task}" for task in tasks), "training.eval_iters=null", *others]
