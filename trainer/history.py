"""Reconstruct which samples each step of a run was trained on, from the files of its directory.

metrics.jsonl has the samples consumed after each step that counts, events.jsonl the configuration and the mixture of
each start, recovery.jsonl the samples that rollbacks skip. Steps before a fork are those of the other run.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint.trainer_state import read_state
from trainer.config.load import load_config_file
from trainer.config.schema import TrainConfig
from trainer.data.labelled_rows import RowDataset
from trainer.data.mixture import DatasetIdentity, Mixture
from trainer.data.sample_ranges import SampleRanges
from trainer.data.sampler import SampleOrder
from trainer.data.token_dataset import TokenDataset
from trainer.data.window_documents import WindowDocuments
from trainer.loop.recovery_log import FILE_NAME as RECOVERY_NAME
from trainer.loop.recovery_log import read_recovery_log, read_replay, skipped_samples_of
from trainer.metrics.events import FILE_NAME as EVENTS_NAME
from trainer.metrics.jsonl import FILE_NAME as METRICS_NAME
from trainer.metrics.jsonl import read_records
from trainer.saved_run import locate_datasets, run_directory_of
from trireme.errors import ConfigError, Violation, raise_if_any

_MAX_FORKS = 100


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Hold consecutive steps that one start of a run has taken."""

    run_directory: Path
    first_step: int
    first_sample: int
    """Samples consumed before the first step."""
    ends: np.ndarray
    """[steps] int64: samples consumed after each step, ascending."""
    mixture: Mixture
    skipped_samples: SampleRanges
    """Samples that no step reads."""
    config: TrainConfig

    @property
    def last_step(self) -> int:
        """Number of the last step."""
        return self.first_step + len(self.ends) - 1

    def samples_of(self, step: int) -> np.ndarray:
        """Return the samples of a step, ascending: [global_batch_size] int64.

        Raises:
            ConfigError: the files of the run contradict each other.
        """
        place = step - self.first_step
        start = int(self.ends[place - 1]) if place else self.first_sample
        count = self.config.training.global_batch_size
        samples = self.skipped_samples.skip_ranges(np.arange(start, start + count), start=start)
        if int(samples[-1]) + 1 != self.ends[place]:
            message = (
                f"says that step {step} ends at sample {self.ends[place]}, but its batch ends at {samples[-1] + 1}"
            )
            fix = f"Restore {METRICS_NAME}, {EVENTS_NAME} and {RECOVERY_NAME} of the run."
            path = str(self.run_directory / METRICS_NAME)
            raise ConfigError([Violation(path=path, value="", message=message, fix=fix)])
        return samples

    def step_of(self, sample: int) -> int | None:
        """Return the step that was trained on a sample; None if it was skipped, or is none of this stretch."""
        if not self.first_sample <= sample < self.ends[-1]:
            return None
        if any(first <= sample < end for first, end in self.skipped_samples.ranges):
            return None
        return self.first_step + bisect_right(self.ends, sample)

    @cached_property
    def data(self) -> "StretchData":
        """The data sets of these steps.

        Raises:
            ConfigError: they are not there, or not those that the run read.
        """
        return _open_data(self)


@dataclass(frozen=True, kw_only=True)
class StretchData:
    """Hold the data sets of a stretch, and the order of their samples."""

    order: SampleOrder
    datasets: Sequence[WindowDocuments]


@dataclass(frozen=True, kw_only=True)
class DocumentRead:
    """Hold one sample that has tokens of a document."""

    step: int
    sample: int
    dataset: int
    """Number of the data set in the configuration of that step."""
    epoch: int
    """How many times the run had drawn the whole data set before."""
    window: int
    first: int
    """First token of the document in the sample."""
    end: int
    """One past its last token there."""


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """Hold all steps of a run."""

    run_directory: Path
    stretches: Sequence[Stretch]
    """In the order of their steps."""
    missing: str = ""
    """Why earlier steps are not known; empty if all are."""
    last_step: int = 0
    """Of the run so far; 0 before the first."""

    def stretch_of(self, step: int) -> Stretch | None:
        """Return the stretch with a step; None if it is not known."""
        return next((one for one in self.stretches if one.first_step <= step <= one.last_step), None)

    def find_reads(self, shard: Path, number: int, *, last_step: int | None = None) -> list[DocumentRead]:
        """Return the samples with tokens of a document that steps were trained on, by step.

        Args:
            shard: prefix.
            number: of the document, from 0.
            last_step: later ones are left out.
        Raises:
            ConfigError: data sets are not there, or not those that the run read.
        """
        found: list[DocumentRead] = []
        for stretch in self.stretches:
            if last_step is not None and stretch.first_step > last_step:
                break
            data = stretch.data
            for dataset, documents in enumerate(data.datasets):
                for place, prefix in enumerate(documents.shards):
                    if not _is_same(prefix, shard) or number >= documents.count_documents(place):
                        continue
                    samples = data.order.find_samples(
                        dataset,
                        documents.windows_of(place, number),
                        first=stretch.first_sample,
                        end=int(stretch.ends[-1]),
                    )
                    for sample in samples.tolist():
                        step = stretch.step_of(sample)
                        if step is not None and (last_step is None or step <= last_step):
                            found.append(_describe_read(step, sample, data=data, shard=prefix, number=number))
        return sorted(found, key=lambda one: (one.step, one.sample))

    def list_shards(self) -> list[Path]:
        """Return the prefixes of all shards of the run."""
        datasets = [documents for stretch in self.stretches for documents in stretch.data.datasets]
        return list(dict.fromkeys(prefix for documents in datasets for prefix in documents.shards))

    def find_shard(self, name: str) -> Path | None:
        """Return the prefix of a shard of the run by its path, or by the end of its path if only one has it."""
        known = self.list_shards()
        same = [prefix for prefix in known if _is_same(prefix, Path(name).expanduser())]
        parts = Path(name).parts
        named = [prefix for prefix in known if parts and prefix.parts[-len(parts) :] == parts]
        return same[0] if same else named[0] if len(named) == 1 else None


def read_history(run_directory: Path, *, name: str = "RUN") -> RunHistory:
    """Read the history of a run.

    Args:
        name: the user's name of the directory, for messages.
    Raises:
        ConfigError: the directory has no such files, or they are damaged.
    """
    raise_if_any(_check_files(run_directory, name=name))
    try:
        return _read_history(run_directory, depth=0)
    except (OSError, KeyError, TypeError, ValueError) as error:
        message = f"cannot be read: {type(error).__name__}: {error}"
        fix = f"Restore {METRICS_NAME}, {EVENTS_NAME} and {RECOVERY_NAME} of the run."
        raise ConfigError([Violation(path=name, value=run_directory, message=message, fix=fix)]) from error


def _describe_read(step: int, sample: int, *, data: StretchData, shard: Path, number: int) -> DocumentRead:
    place = data.order.locate(np.array([sample]))
    dataset, epoch, window = (int(values[0]) for values in (place.dataset, place.epoch, place.window))
    parts = data.datasets[dataset].documents_of(window)
    part = next(one for one in parts if one.number == number and one.shard == shard)
    return DocumentRead(
        step=step, sample=sample, dataset=dataset, epoch=epoch, window=window, first=part.first, end=part.end
    )


def _check_files(run_directory: Path, *, name: str) -> list[Violation]:
    missing = [one for one in (METRICS_NAME, EVENTS_NAME) if not (run_directory / one).is_file()]
    if not missing:
        return []
    message = f"has no {' and no '.join(missing)}"
    fix = "Give the directory of a run that was trained here; an import has no steps."
    return [Violation(path=name, value=run_directory, message=message, fix=fix)]


def _read_history(run_directory: Path, *, depth: int) -> RunHistory:
    ends = {
        int(record["step"]): int(record["consumed_samples"])
        for record in read_records(run_directory / METRICS_NAME)
        if record["kind"] == "train"
    }
    starts = [record for record in read_records(run_directory / EVENTS_NAME) if record["kind"] == "start"]
    stretches: list[Stretch] = []
    earlier, missing = _earlier_steps(run_directory, starts, depth=depth)
    decisions = read_recovery_log(run_directory / RECOVERY_NAME)
    steps = sorted(ends)
    for first, last, start in _divide(steps, starts):
        config = load_config_file(run_directory / start["config"])
        mixture = Mixture.from_record(start["mixture"])
        numbers = np.array([ends[step] for step in range(first, last + 1)], dtype=np.int64)
        stretches.append(
            Stretch(
                run_directory=run_directory,
                first_step=first,
                first_sample=_consumed_before(first, ends, earlier, start, config, int(numbers[0])),
                ends=numbers,
                mixture=mixture,
                skipped_samples=_skipped(start, decisions, mixture, config),
                config=config,
            )
        )
    return RunHistory(
        run_directory=run_directory,
        stretches=[*earlier, *stretches],
        missing=missing,
        last_step=steps[-1] if steps else 0,
    )


def _divide(steps: Sequence[int], starts: Sequence[dict[str, Any]]) -> list[tuple[int, int, dict[str, Any]]]:
    """Divide consecutive steps into stretches, each with the start that took it: the latest one before the step."""
    found: list[tuple[int, int, dict[str, Any]]] = []
    for step in steps:
        start = next((one for one in reversed(starts) if one["step"] < step), None)
        if start is None:
            continue
        if found and found[-1][1] == step - 1 and found[-1][2] is start:
            found[-1] = (found[-1][0], step, start)
        else:
            found.append((step, step, start))
    return found


def _earlier_steps(run_directory: Path, starts: Sequence[dict[str, Any]], *, depth: int) -> tuple[list[Stretch], str]:
    """Return the steps of the run that this one was forked from, or why they are not known."""
    first = starts[0] if starts else None
    if first is None or not first["step"] or not first["forked_from"]:
        return [], ""
    origin = first["forked_from"][-1]
    step, other = int(origin["step"]), run_directory_of(Path(origin["checkpoint"]))
    unknown = f"Steps 1 to {step} are those of the run {origin['run_name']}, whose files are not here ({other})."
    if other is None or depth >= _MAX_FORKS or _check_files(other, name=""):
        return [], unknown
    history = _read_history(other, depth=depth + 1)
    kept = [_cut(stretch, step) for stretch in history.stretches if stretch.first_step <= step]
    return kept, history.missing


def _cut(stretch: Stretch, step: int) -> Stretch:
    return replace(stretch, ends=stretch.ends[: step - stretch.first_step + 1])


def _consumed_before(
    step: int,
    ends: dict[int, int],
    earlier: Sequence[Stretch],
    start: dict[str, Any],
    config: TrainConfig,
    end: int,
) -> int:
    """Return the samples that were consumed before a step."""
    if step - 1 in ends:
        return ends[step - 1]
    if step == 1:
        return 0
    if earlier and earlier[-1].last_step == step - 1:
        return int(earlier[-1].ends[-1])
    checkpoint = start["checkpoint"]
    if start["step"] == step - 1 and checkpoint is not None and Path(checkpoint).is_dir():
        return read_state(Path(checkpoint)).consumed_samples
    return end - config.training.global_batch_size


def _skipped(
    start: dict[str, Any], decisions: Sequence[dict[str, Any]], mixture: Mixture, config: TrainConfig
) -> SampleRanges:
    """Return the samples that the steps of a start skip."""
    skipped = SampleRanges.of(start.get("skipped_samples", ()))
    skipped = skipped | skipped_samples_of(decisions, first_sample=mixture.first_sample)
    replay = config.recovery.replay
    if replay is not None and "skipped_samples" not in start and Path(replay).expanduser().exists():
        skipped = skipped | read_replay(replay).skipped_samples
    return skipped


def _open_data(stretch: Stretch) -> StretchData:
    config = stretch.config
    located = locate_datasets(config.data.train, config=config, run_directory=stretch.run_directory)
    datasets: list[TokenDataset] = []
    found: list[Violation] = []
    for number, (dataset, entry) in enumerate(zip(located, stretch.mixture.active, strict=True)):
        try:
            tokens, identity = _open_dataset(
                tuple(dataset.paths), seq_length=config.model.seq_length, is_rows=config.finetune.task is not None
            )
        except ConfigError as error:
            found += error.violations
            continue
        if not entry.is_of(identity):
            message = f"is not the data that steps {stretch.first_step} to {stretch.last_step} read: tokens differ"
            fix = "Restore the shards of the run."
            found.append(
                Violation(path=f"data.train[{number}]", value=", ".join(dataset.paths), message=message, fix=fix)
            )
        datasets.append(tokens)
    raise_if_any(found)
    order = SampleOrder(stretch.mixture, num_windows=[one.num_windows for one in datasets], seed=config.training.seed)
    return StretchData(order=order, datasets=[WindowDocuments(one) for one in datasets])


@lru_cache(maxsize=64)
def _open_dataset(paths: tuple[str, ...], *, seq_length: int, is_rows: bool) -> tuple[TokenDataset, DatasetIdentity]:
    """Open a data set, which many starts of a run share."""
    if not is_rows:
        tokens = TokenDataset(paths, seq_length=seq_length)
        return tokens, tokens.identity
    rows = RowDataset(paths, seq_length=seq_length)
    return rows.tokens, rows.identity


def _is_same(first: Path, second: Path) -> bool:
    return first.expanduser().resolve() == second.expanduser().resolve()
