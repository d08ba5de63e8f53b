"""recovery.jsonl: every recovery decision of a run, one JSON object per line; the file is only appended to."""

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
"""The run ended and resumed from an earlier step: updates that were skipped after it are tried again."""
_KINDS = {ROLLBACK, SKIPPED_UPDATE, RESUMED, WARNING, GAVE_UP}
_LOGGER = logging.getLogger(__name__)


class RecoveryLog:
    """Hold the recovery decisions of one run: every rank knows them, the main rank writes them.

    Args:
        path: None on every rank but the main one.
        records: the decisions that the file holds already.
    """

    def __init__(self, path: Path | None, *, records: Sequence[dict[str, Any]] = ()) -> None:
        self._path = path
        self._records = list(records)

    @property
    def is_written_here(self) -> bool:
        """Whether this rank writes the file and logs the decisions."""
        return self._path is not None

    def append(self, kind: str, *, step: int, **fields: Any) -> None:
        """Append one decision and flush it to the disk; a failed write is logged, and the run continues."""
        self._records.append({"kind": kind, "step": step, **fields})
        if self._path is None:
            return
        line = describe_event(kind, step=step, **fields)
        try:
            append_durably(self._path, line)
        except OSError as error:
            _LOGGER.error("Failed to write this decision to %s (%s): %s", self._path, error.strerror, line.rstrip())

    def rollbacks(self, *, since_step: int) -> list[dict[str, Any]]:
        """Return the rollbacks that were decided at or after a step."""
        return [record for record in self._records if record["kind"] == ROLLBACK and record["step"] >= since_step]


def read_recovery_log(path: Path) -> list[dict[str, Any]]:
    """Return all decisions of a run; an empty list where the file does not exist.

    Raises:
        OSError: the file exists but cannot be read.
    """
    return read_records(path) if path.exists() else []


def skipped_samples_of(records: Iterable[dict[str, Any]], *, first_sample: int | None = None) -> SampleRanges:
    """Return the samples that the rollbacks among these decisions skip.

    Args:
        first_sample: of the mixture whose sample numbers are meant; None takes those of every mixture.
    Raises:
        KeyError, TypeError, ValueError: a record is invalid.
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
    """Hold one step whose update was skipped."""

    step: int
    first_sample: int
    end_sample: int
    """One past its last sample."""
    loss: float | None
    """None where it was not finite."""
    grad_norm: float | None
    """None where it was not finite."""


def skipped_updates_of(records: Iterable[dict[str, Any]]) -> list[SkippedUpdate]:
    """Return the steps whose update stays skipped, without those that the run has repeated since.

    Raises:
        KeyError, TypeError, ValueError: a record is invalid.
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
    """Hold the decisions of another run, which this run repeats from its start."""

    skipped_samples: SampleRanges = field(default_factory=SampleRanges)
    skipped_updates: Mapping[tuple[int, int], SkippedUpdate] = field(default_factory=dict)
    """By the numbers of samples that were consumed before and after the step."""

    def find_skipped(self, first_sample: int, end_sample: int) -> SkippedUpdate | None:
        """Return the step of exactly these samples, if its update was skipped."""
        return self.skipped_updates.get((first_sample, end_sample))

    def is_cut(self, first_sample: int, end_sample: int) -> bool:
        """Return whether these samples overlap such a step in part, as under another global batch size."""
        return self.find_skipped(first_sample, end_sample) is None and any(
            first < end_sample and first_sample < end for first, end in self.skipped_updates
        )


def read_replay(replay: str) -> Replay:
    """Read the samples and the updates that another run skipped.

    Args:
        replay: its recovery.jsonl, or its directory.
    Raises:
        ConfigError: there is no such file, or it is invalid.
    """
    path = Path(replay).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    try:
        records = read_records(path)
        if others := sorted({str(record.get("kind")) for record in records} - _KINDS):
            raise ValueError(f"it holds records of kind {', '.join(others)}")
        updates = {(update.first_sample, update.end_sample): update for update in skipped_updates_of(records)}
        return Replay(skipped_samples=skipped_samples_of(records), skipped_updates=updates)
    except (OSError, KeyError, TypeError, ValueError) as error:
        message = f"cannot be replayed: {type(error).__name__}: {error}"
        fix = f"Set it to the {FILE_NAME} of a run, to the directory of a run that contains one, or to null."
        raise ConfigError([Violation(path="recovery.replay", value=replay, message=message, fix=fix)]) from error
