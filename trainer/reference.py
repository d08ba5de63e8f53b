"""Compute the losses of a frozen reference model on all rows of preferences, once, and keep them beside the rows.

The reference is the checkpoint that a run starts from. Each checkpoint of the run names it by path and hash, so that a
resumed run keeps it where `pretrained_checkpoint` is a run that has gone on since.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from trainer.checkpoint.adapter_base import fingerprint, record_base
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.discovery import choose_at
from trainer.checkpoint.pretrained import find_resumed
from trainer.checkpoint.rollback import resume_of_start
from trainer.checkpoint.trainer_state import BaseRecord
from trainer.config.pretrained import PRETRAINED
from trainer.config.schema import TrainConfig
from trainer.data.labelled_rows import LabelledRowReader, RowDataset, RowsConfig
from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.data.reference_losses import reference_file
from trainer.parallel.world import World
from trireme.errors import ConfigError, Violation
from trireme.progress import PlainProgress
from trireme.shards.examples import LABELS_SUFFIX
from trireme.shards.manifest import hash_file
from trireme.shards.shard import shard_file

_LOGGER = logging.getLogger(__name__)
_KEY_DIGITS = 16
_SECONDS_BETWEEN_LINES = 10.0
REFERENCE_NAME = "reference.json"
"""File of checkpoints that names the reference model."""


def find_reference(config: TrainConfig, *, run_directory: Path) -> BaseRecord:
    """Return the checkpoint that is a run's reference, on one rank: that of the checkpoint to resume from, if any.

    Raises:
        ConfigError: there is no such checkpoint, or the record of it is damaged.
    """
    assert config.pretrained_checkpoint is not None, "a rule"
    resumed = _find_resumed(config, run_directory=run_directory)
    file = resumed / REFERENCE_NAME if resumed is not None else None
    if file is not None and file.is_file():
        try:
            return BaseRecord(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            message, fix = "does not name the reference model", "Restore the file, or resume from another checkpoint."
            raise ConfigError([Violation(path=str(file), value="", message=message, fix=fix)]) from error
    checkpoint = choose_at(Path(config.pretrained_checkpoint), verify=False, name=PRETRAINED, is_alone=True)
    return record_base(checkpoint, run_directory=run_directory)


def write_reference(reference: BaseRecord) -> str:
    """Return the content of REFERENCE_NAME."""
    return json.dumps(asdict(reference), indent=1, ensure_ascii=False) + "\n"


def locate_reference(reference: BaseRecord, config: TrainConfig, *, run_directory: Path) -> Path:
    """Return where the reference is now, on one rank.

    Raises:
        ConfigError: neither where it was nor at `pretrained_checkpoint`.
    """
    assert config.pretrained_checkpoint is not None, "a rule"
    places = [Path(reference.checkpoint), run_directory.resolve() / reference.relative]
    with contextlib.suppress(ConfigError):  # the reference may still be where it was
        places.append(choose_at(Path(config.pretrained_checkpoint), verify=False, name=PRETRAINED, is_alone=True))
    for place in places:
        if place.is_dir() and fingerprint(place) == reference.sha256:
            return place
    message = "the reference of this run's preferences is no longer there, and losses of it are missing beside the rows"
    fix = f"Restore that checkpoint, or set {PRETRAINED} to a copy of it."
    raise ConfigError([Violation(path=PRETRAINED, value=reference.checkpoint, message=message, fix=fix)])


def _find_resumed(config: TrainConfig, *, run_directory: Path) -> Path | None:
    return find_resumed(resume_of_start(config.resume, run_directory), run_directory=run_directory)


def find_reference_key(reference: BaseRecord, config: TrainConfig) -> str:
    """Return what names the reference losses of a run, on one rank: a hash of the reference's weights and all rows."""
    rows = [
        hash_file(shard_file(f"{prefix}{suffix}", ".bin"))
        for dataset in (*config.data.train, *config.data.validation)
        for prefix in dataset.paths
        for suffix in ("", LABELS_SUFFIX)
    ]
    return hashlib.sha256(json.dumps([reference.sha256, rows]).encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Compute reference losses where they are missing.

    Args:
        evaluate: runs forward passes of a global batch of the model with its start weights; calls its second argument
            with the token losses of each micro batch on the last pipeline stage.
        is_writing: whether this rank writes what it observes: False where another rank has the same losses.
    """

    config: TrainConfig
    world: World
    evaluate: Callable[[Sequence[MicroBatch], Callable[[torch.Tensor, MicroBatch], None]], object]
    is_writing: bool

    def ensure(self, key: str, *, load_start_weights: Callable[[], object]) -> None:
        """Compute the losses of all rows under `key`, unless they are there; all ranks call this.

        Args:
            load_start_weights: puts the reference's weights into the model; called only if something is missing.
        Raises:
            ConfigError: on every rank, if a file cannot be written.
        """
        ranks = Ranks()
        prefixes = [path for data in (*self.config.data.train, *self.config.data.validation) for path in data.paths]
        distinct = list(dict.fromkeys(prefixes))
        missing = ranks.run_on_rank0(
            lambda: [prefix for prefix in distinct if not reference_file(prefix, key=key).is_file()],
            doing="looking for reference losses",
        )
        if not missing:
            return
        load_start_weights()
        for prefix in missing:
            self._compute(prefix, key=key, ranks=ranks)

    def _compute(self, prefix: str, *, key: str, ranks: Ranks) -> None:
        config, world = self.config, self.world
        dataset = RowDataset([prefix], seq_length=config.model.seq_length)
        reader = LabelledRowReader([dataset], config=RowsConfig(task="dpo"))
        num_rows, size = dataset.num_windows, config.model.seq_length * 4
        final = reference_file(prefix, key=key)
        partial_file = final.with_name(f"{final.name}.partial")
        say = _LOGGER.info if world.is_main_rank else lambda line: None
        title = f"Reference losses of {prefix}"
        progress = PlainProgress(title, total=num_rows, unit="rows", write=say, interval_seconds=_SECONDS_BETWEEN_LINES)
        ranks.run_on_rank0(partial(_allocate, partial_file, num_rows * size), doing=f"creating {partial_file}")

        def write(losses: torch.Tensor, batch: MicroBatch) -> None:
            if not self.is_writing:
                return
            values = (losses.float() * batch.loss_mask).cpu().numpy().astype("<f4")
            with open(partial_file, "r+b", buffering=0) as file:
                for row, sample in enumerate(batch.sample_ids):
                    if sample != PADDING:
                        os.pwrite(file.fileno(), values[row].tobytes(), sample * size)

        micro, step_rows = config.training.micro_batch_size, config.training.micro_batch_size * world.dp_size
        num_steps = -(-num_rows // step_rows)
        for step in range(num_steps):
            first = step * step_rows + world.dp_rank * micro
            samples = np.arange(first, first + micro)
            samples = np.where(samples < num_rows, samples, PADDING)[None, :]
            places = np.where(samples == PADDING, 0, samples).ravel()
            self.evaluate(reader.read(samples, dataset=np.zeros(micro, dtype=np.int64), window=places), write)
            progress.update(min((step + 1) * step_rows, num_rows))
        progress.finish(num_rows)
        reader.close()
        ranks.run_on_all_ranks(lambda: None, doing=f"writing {partial_file}")
        ranks.run_on_rank0(partial(_commit, partial_file, final), doing=f"writing {final}")


def _allocate(path: Path, num_bytes: int) -> None:
    try:
        with path.open("wb") as file:
            # Reserved: a disk that runs full later would end the ranks in the middle.
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        message = f"the reference losses cannot be written: {error.strerror}"
        fix = "Make room and the directory of the examples writable, or copy the examples to one that is."
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error


def _commit(partial_file: Path, final: Path) -> None:
    with partial_file.open("rb") as file:
        os.fsync(file.fileno())
    partial_file.rename(final)
