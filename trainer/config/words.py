"""Read the short forms of settings on the command lines of single tasks."""

from collections.abc import Sequence


def with_task(arguments: Sequence[str]) -> list[str]:
    """Write `task=TASK` as the override `finetune.task=TASK`, and validate on all examples; later overrides may differ.

    A saved configuration has these settings already.
    """
    if any(argument.startswith("config_file=") for argument in arguments):
        return [argument for argument in arguments if not argument.startswith("task=")]
    return ["training.eval_iters=null", *_expand(arguments, word="task", path="finetune.task")]


def with_teacher(arguments: Sequence[str]) -> list[str]:
    """Write `teacher=PATH` as the override `distill.teacher=PATH`."""
    return _expand(arguments, word="teacher", path="distill.teacher")


def _expand(arguments: Sequence[str], *, word: str, path: str) -> list[str]:
    """Write `WORD=VALUE` as the override `PATH=VALUE`, before all others."""
    start = f"{word}="
    found = [f"{path}={argument.removeprefix(start)}" for argument in arguments if argument.startswith(start)]
    return [*found, *(argument for argument in arguments if not argument.startswith(start))]
