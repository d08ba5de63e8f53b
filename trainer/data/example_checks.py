"""Check that shards hold what a run trains on: examples of its task, all of one kind, or text."""

from collections.abc import Sequence

from trireme.errors import ConfigError, Violation
from trireme.shards.examples import LABELS_SUFFIX, ExamplesRecord, Task, read_examples
from trireme.shards.shard import ShardReader

_PREPARE = "Prepare them with `trireme prepare-examples"


def check_examples(places: Sequence[tuple[str, str]], *, task: Task | None, seq_length: int) -> list[Violation]:
    """Compare what shards hold with the task of the run, and with each other.

    Args:
        places: setting and prefix of each shard, all of which can be read.
        task: of the run; None for pretraining on text.
        seq_length: tokens of a row.
    """
    found: list[Violation] = []
    first: tuple[str, ExamplesRecord] | None = None
    for place, prefix in places:
        try:
            record = read_examples(prefix)
        except ConfigError as error:
            found += error.violations
            continue
        if task is None:
            found += _refuse_examples(place, prefix, record)
        elif record is None:
            message = f"is a shard of text, but finetune.task={task} trains on examples"
            found.append(Violation(path=place, value=prefix, message=message, fix=f"{_PREPARE} --task {task}`."))
        elif record.task != task:
            message = f"holds examples of the task {record.task}, not of finetune.task={task}"
            fix = f"Set finetune.task={record.task}, or use other examples."
            found.append(Violation(path=place, value=prefix, message=message, fix=fix))
        else:
            found += _check_rows(place, prefix, record, seq_length=seq_length, first=first)
            first = first or (place, record)
    return found


def _refuse_examples(place: str, prefix: str, record: ExamplesRecord | None) -> list[Violation]:
    if record is None:
        return []
    message = f"holds examples of the task {record.task}: trained on as text, their padding and prompts would count"
    fix = f"Set finetune.task={record.task}, or use shards of text."
    return [Violation(path=place, value=prefix, message=message, fix=fix)]


def _check_rows(
    place: str, prefix: str, record: ExamplesRecord, *, seq_length: int, first: tuple[str, ExamplesRecord] | None
) -> list[Violation]:
    try:
        sizes = [ShardReader(name).num_tokens for name in (prefix, f"{prefix}{LABELS_SUFFIX}")]
    except ConfigError as error:
        return list(error.violations)
    if record.seq_length != seq_length:
        message = f"has rows of {record.seq_length} tokens, but model.seq_length={seq_length}"
        fix = f"Use model.seq_length={record.seq_length}, or prepare the examples with --seq-length {seq_length}."
        return [Violation(path=place, value=prefix, message=message, fix=fix)]
    if sizes[0] != sizes[1] or sizes[0] % seq_length:
        message = f"is damaged: {sizes[0]} tokens and {sizes[1]} labels are not rows of {seq_length} tokens"
        return [Violation(path=place, value=prefix, message=message, fix=f"{_PREPARE}` again.")]
    if first is None:
        return []
    other_place, other = first
    names = ("labels", "target_kind", "value_range")
    return [
        Violation(
            path=place,
            value=prefix,
            message=f"has other {name.replace('_', ' ')} than {other_place}: {_show(record, name)} instead of"
            f" {_show(other, name)}",
            fix="Prepare all examples of a run with the same labels (--labels), or in one command.",
        )
        for name in names
        if getattr(record, name) != getattr(other, name)
    ]


def _show(record: ExamplesRecord, name: str) -> str:
    value = getattr(record, name)
    if isinstance(value, tuple):
        shown = ", ".join(map(str, value[:8]))
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    return str(value)
