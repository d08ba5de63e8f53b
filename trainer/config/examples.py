"""Fill in the settings that follow from the examples of a fine-tuning run: row length, head, classes, steps."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.config.finetune import HEAD_OF_TASK
from trainer.config.model import ModelConfig
from trainer.config.run import DatasetConfig
from trainer.config.schema import TrainConfig
from trireme.errors import ConfigError
from trireme.records import Task

if TYPE_CHECKING:
    from trireme.shards.examples import ExamplesRecord
# Shards are read only where a run fine-tunes: with them comes numpy, which no launcher needs otherwise.


def with_examples(config: TrainConfig) -> TrainConfig:
    """Fill in what the examples of data.train determine, if the run fine-tunes and they can be read.

    model.seq_length becomes the length of their rows, model.head and model.num_labels those of the task, and
    finetune.num_epochs becomes training.train_iters. Without data.train, as in an evaluation, only the length is taken,
    from data.validation: the model has its head already. A shard that cannot be read changes nothing: it is reported
    with all other inputs before the start.
    """
    task = config.finetune.task
    record = None if task is None else find_record(config.data.train or config.data.validation)
    if task is None or record is None or record.task != task:
        return config
    model = _with_rows(config.model, seq_length=record.seq_length)
    if config.data.train:
        model = _with_head(model, task=task, record=record)
    config = dataclasses.replace(config, model=model)
    num_epochs = config.finetune.num_epochs
    num_rows = count_rows(config.data.train)
    if num_epochs is None or not num_rows:
        return config
    steps = max(1, math.ceil(num_epochs * num_rows / config.training.global_batch_size - 1e-9))
    return dataclasses.replace(config, training=dataclasses.replace(config.training, train_iters=steps))


def find_record(datasets: Sequence[DatasetConfig]) -> "ExamplesRecord | None":
    """Return what the rows of the first shard are; None if there is none, or if it cannot be read."""
    from trireme.shards.examples import read_examples  # noqa: PLC0415 - see above

    prefix = next((path for dataset in datasets for path in dataset.paths), None)
    try:
        return None if prefix is None else read_examples(prefix)
    except ConfigError:
        return None


def count_rows(datasets: Sequence[DatasetConfig]) -> int | None:
    """Return the rows of all data sets together; None if one cannot be read."""
    from trireme.shards.examples import read_examples  # noqa: PLC0415 - see above
    from trireme.shards.shard import read_header  # noqa: PLC0415 - see above

    total = 0
    for dataset in datasets:
        for prefix in dataset.paths:
            try:
                record, header = read_examples(prefix), read_header(prefix)
            except ConfigError:
                return None
            if record is None:
                return None
            total += header.num_tokens // record.seq_length
    return total


def count_scores(record: "ExamplesRecord") -> int:
    """Return the outputs of the task's head: one per class or tag, one number, or first and last token."""
    if record.task == "qa":
        return 2
    return 1 if record.target_kind == "value" else len(record.labels)


def _with_rows(model: ModelConfig, *, seq_length: int) -> ModelConfig:
    """Set the row length; a table of learned positions keeps its own."""
    positions = model.max_position_embeddings
    if positions is None and model.position_embedding_type == "learned_absolute" and model.seq_length > seq_length:
        positions = model.seq_length
    return dataclasses.replace(model, seq_length=seq_length, max_position_embeddings=positions)


def _with_head(model: ModelConfig, *, task: Task, record: "ExamplesRecord") -> ModelConfig:
    head = HEAD_OF_TASK[task]
    if head == "lm":  # the model's own, which predicts tokens
        return model
    values: dict[str, Any] = {"head": head, "num_labels": None if task == "qa" else count_scores(record)}
    if model.head != head:
        values |= _usual_head(model, head=head)
    return dataclasses.replace(model, **values)


def _usual_head(model: ModelConfig, *, head: str) -> dict[str, Any]:
    """Return how transformers' classes for a kind of model go from hidden states to scores."""
    if model.attention_mask == "causal":
        # The first token has seen nothing else.
        return {"pooling": "last", "pooler": "none", "head_bias": head != "classification"}
    if model.skip_first_layernorm:  # ModernBERT
        return {"pooler": "gelu"}
    return {"pooler": "tanh" if head == "classification" and model.norm_placement == "sum" else "none"}
