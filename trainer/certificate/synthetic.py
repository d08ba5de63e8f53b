"""Write synthetic rows of examples, on which layouts of a model with a task's head are compared."""

import dataclasses
from pathlib import Path

import numpy as np

from trainer.config.run import DataConfig, DatasetConfig
from trainer.config.schema import TrainConfig
from trireme.shards.examples import (
    LABELS_SUFFIX,
    NO_LABEL,
    ExamplesRecord,
    Task,
    encode_labels,
    record_settings,
)
from trireme.shards.manifest import ShardManifest, write_manifest
from trireme.shards.shard import ShardWriter, shard_file, token_dtype


def write_synthetic_examples(config: TrainConfig, *, vocab_size: int, folder: Path, num_steps: int) -> DataConfig:
    """Write rows of documents of random lengths and tokens, each with labels of the run's task that its tokens decide.

    Classes and tags are a token modulo their number, and answers begin at the second token of a document. Every row
    ends with a document of padding.

    Returns:
        A data set with a row for every sample of the run.
    """
    task, length = config.finetune.task, config.model.seq_length
    assert task in ("classify", "tag", "qa"), f"no synthetic examples of {task}"
    num_rows, num_classes = num_steps * config.training.global_batch_size, config.model.num_labels or 0
    prefix = folder / f"synthetic_{task}_{length}_{vocab_size}_{num_rows}_{num_classes}"
    if not shard_file(prefix, ".idx").exists():
        generator = np.random.default_rng(0)
        num_examples = 0
        tokens_writer = ShardWriter(prefix, dtype=token_dtype(vocab_size))
        labels_writer = ShardWriter(shard_file(prefix, LABELS_SUFFIX), dtype=np.int32, allow_negative=True)
        with tokens_writer, labels_writer:
            for _ in range(num_rows):
                tokens = generator.integers(1, vocab_size, size=length)
                # At least two tokens a document, and one of padding.
                ends = np.sort(generator.choice(np.arange(2, length, 2), size=2, replace=False))
                starts, labels = np.zeros(length, dtype=bool), np.full(length, NO_LABEL)
                starts[[0, *ends]], tokens[ends[1] :] = True, 0
                for begin, end in ((0, ends[0]), (ends[0], ends[1])):
                    labels[begin:end] = _label(tokens[begin:end], task=task, num_classes=num_classes)
                    num_examples += 1
                tokens_writer.add_document(tokens)
                labels_writer.add_document(encode_labels(labels, starts=starts))
            files = {f"{LABELS_SUFFIX}{name}": entry for name, entry in labels_writer.commit().items()}
            files |= tokens_writer.commit()
        record = ExamplesRecord(
            task=task,
            seq_length=length,
            pad_token_id=0,
            num_examples=num_examples,
            labels=tuple(str(number) for number in range(num_classes)),
        )
        manifest = ShardManifest(
            num_documents=num_rows,
            num_tokens=num_rows * length,
            dtype=token_dtype(vocab_size).name,
            files=files,
            settings=record_settings(record),
        )
        write_manifest(prefix, manifest)
    train = [DatasetConfig(paths=[str(prefix)])]
    return dataclasses.replace(config.data, train=train, validation=[], prefetch_steps=0)


def _label(tokens: np.ndarray, *, task: Task, num_classes: int) -> np.ndarray:
    """Return the labels of a document of at least two tokens."""
    if task == "tag":
        return np.where(tokens % 3 > 0, tokens % num_classes, NO_LABEL)
    labels = np.full(len(tokens), NO_LABEL)
    if task == "classify":
        labels[0] = tokens[0] % num_classes
    else:
        labels[:2] = 1, 1 + tokens[0] % (len(tokens) - 1)
    return labels
