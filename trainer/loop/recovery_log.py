"""recovery.jsonl: every decision about training that went wrong, one JSON object a line; only ever appended to."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.sample_ranges import SampleRanges
from trainer.metrics.events import describe_event
from trainer.metrics.jsonl import read_records
from trireme.errors import ConfigError, Violation
from trireme.files import append_durably

FILE_NAME = "recovery.jsonl"
ROLLBACK = "rollback"
SKIPPED_UPDATE = "skipped_update"
WARNING = "warning"
GAVE_UP = "gave_up"
RESUMED = "resumed"
"""The run ended and went on from an earlier step: updates that had been skipped since are tried again."""
_KINDS = {ROLLBACK, SKIPPED_UPDATE, RESUMED, WARNING, GAVE_UP}
_LOGGER = logging.getLogger(__name__)


class RecoveryLog:
    """The decisions of one run: every rank knows them, the main rank writes them.

    Args:
        path: None on every rank but the main one.
        records: what the file holds.
    """

    def __init__(self, path: Path | None, *, records: Sequence[dict[str, Any]] = ()) -> None:
        self._path = path
        self._records = list(records)

    @property
    def is_written_here(self) -> bool:
        """Whether this is the rank that writes and tells."""
        return self._path is not None

    def append(self, kind: str, *, step: int, **fields: Any) -> None:
        """Take one decision, and have the disk confirm it; a disk that does not is named in the log."""
        self._records.append({"kind": kind, "step": step, **fields})
        if self._path is None:
            return
        line = describe_event(kind, step=step, **fields)
        try:
            append_durably(self._path, line)
        except OSError as error:
            _LOGGER.error("%s does not take this decision (%s): %s", self._path, error.strerror, line.rstrip())

    def rollbacks(self, *, since_step: int) -> list[dict[str, Any]]:
        """Those that were decided at or after a step: the places that a run there has not got past."""
        return [record for record in self._records if record["kind"] == ROLLBACK and record["step"] >= since_step]


def read_recovery_log(path: Path) -> list[dict[str, Any]]:
    """All decisions of a run; none where it has made none.

    Raises:
        OSError: the file is there and cannot be read.
    """
    return read_records(path) if path.exists() else []


def skipped_samples_of(records: Iterable[dict[str, Any]], *, first_sample: int | None = None) -> SampleRanges:
    """The samples that decisions leave out.

    Args:
        first_sample: of the mixture whose sample numbers count; None takes those of any.
    Raises:
        KeyError, TypeError, ValueError: a record is not one of this file.
    """
    found = (
        pair
        for record in records
        if record["kind"] == ROLLBACK and (first_sample is None or record["mixture_first_sample"] == first_sample)
        for pair in record["skipped_samples"]
    )
    return SampleRanges.of(found)


@dataclass(frozen=True, kw_only=True)
class SkippedUpdate:
    """A step whose update was left out."""

    step: int
    first_sample: int
    end_sample: int
    """Behind its last sample."""
    loss: float | None
    """None where it was not finite."""
    grad_norm: float | None
    """None where it was not finite."""


def skipped_updates_of(records: Iterable[dict[str, Any]]) -> list[SkippedUpdate]:
    """The steps whose update is left out for good: not those that the run has taken again since.

    Raises:
        KeyError, TypeError, ValueError: a record is not one of this file.
    """
    updates: dict[int, SkippedUpdate] = {}
    for record in records:
        if record["kind"] in (ROLLBACK, RESUMED):
            to_step = record["to_step"]
            updates = {step: update for step, update in updates.items() if step <= to_step}
        elif record["kind"] == SKIPPED_UPDATE:
            ((first, end),) = record["samples"]
            updates[record["step"]] = SkippedUpdate(
                step=record["step"],
                first_sample=first,
                end_sample=end,
                loss=record["loss"],
                grad_norm=record["grad_norm"],
            )
    return list(updates.values())


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What another run decided, to be done here from the start."""

    left_out: SampleRanges = field(default_factory=SampleRanges)
    skipped_updates: Mapping[tuple[int, int], SkippedUpdate] = field(default_factory=dict)
    """By the samples behind which the step began and ended."""

    def find_skipped(self, first_sample: int, end_sample: int) -> SkippedUpdate | None:
        """The step of these samples, if its update was left out."""
        return self.skipped_updates.get((first_sample, end_sample))

    def is_cut(self, first_sample: int, end_sample: int) -> bool:
        """Whether these samples hold a part of such a step, as under another global batch size."""
        return self.find_skipped(first_sample, end_sample) is None and any(
            first < end_sample and first_sample < end for first, end in self.skipped_updates
        )


def read_replay(replay: str) -> Replay:
    """The samples and the updates that another run left out.

    Args:
        replay: its recovery.jsonl, or its directory.
    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    path = Path(replay).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    try:
        records = read_records(path)
        if others := sorted({str(record.get("kind")) for record in records} - _KINDS):
            raise ValueError(f"it has records of kind {', '.join(others)}")
        updates = {(update.first_sample, update.end_sample): update for update in skipped_updates_of(records)}
        return Replay(left_out=skipped_samples_of(records), skipped_updates=updates)
    except (OSError, KeyError, TypeError, ValueError) as error:
        rule = f"cannot be replayed: {type(error).__name__}: {error}"
        fix = f"give the {FILE_NAME} of a run, or the directory of a run that has one, or null"
        raise ConfigError([Violation(path="recovery.replay", value=replay, message=rule, fix=fix)]) from error
