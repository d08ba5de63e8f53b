"""metrics.jsonl: every record of a run, one JSON object per line; one curve, however often the run was resumed."""

import datetime
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.metrics.record import (
    EvaluationMetrics,
    Metrics,
    RollbackMetrics,
    StepMetrics,
    ValidationMetrics,
    fields_of,
)
from trireme.files import LineFile, written_whole
from trireme.progress import format_number
from trireme.strict_json import to_json

_LOGGER = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"
MAX_WAITING_RECORDS = 100_000
"""While the disk is full; each has about 400 bytes."""


class JsonlSink:
    """Append records to a file, each handed to the system before the next step starts: a killed process loses none.

    While the disk is full, they wait in memory, see `LineFile`.
    """

    def __init__(
        self, path: Path, *, resumed_step: int, is_validation_due: bool = False, is_evaluation_due: bool = False
    ) -> None:
        """Open the file and remove the records that will be written again.

        Args:
            resumed_step: the step that training resumes from; 0 for a new run.
            is_validation_due: whether that step will be validated again.
            is_evaluation_due: the same for the evaluation suite.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        again = [
            kind
            for kind, is_due in (
                (ValidationMetrics.kind, is_validation_due),
                (EvaluationMetrics.kind, is_evaluation_due),
            )
            if is_due
        ]
        self._file = self._open_after(resumed_step, again=again)

    def record_step(self, metrics: StepMetrics) -> None:
        """Append one training record."""
        self._append(metrics)

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Append one validation record."""
        self._append(metrics)

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Append the scores of the evaluation suite."""
        self._append(metrics)

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Replace the records of the steps that are repeated by a record of the rollback."""
        self._file.close()
        self._file = self._open_after(metrics.step)
        self._append(metrics)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open_after(self, step: int, *, again: Collection[str] = ()) -> LineFile:
        remove_after(self._path, step=step, again=again)
        return LineFile(self._path, say=_LOGGER.error, max_waiting=MAX_WAITING_RECORDS)

    def _append(self, metrics: Metrics) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        record = {"kind": metrics.kind, **fields_of(metrics), "time": now}
        self._file.write(to_json(record))  # null is what readers such as pandas turn into NaN


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return all records of a metrics file, in order, without a line that a crash has truncated."""
    with path.open("rb") as file:
        return [record for record in map(_parse, file) if record is not None]


def remove_after(path: Path, *, step: int, again: Collection[str] = ()) -> None:
    """Remove the records of later steps, and lines that a crash has truncated, atomically; step 0 removes all.

    A validation or evaluation at `step` itself stays, unless its kind is to be done `again`: it belongs to the weights
    that training resumes from.
    """
    if not path.exists():
        return

    def stays(line: bytes) -> bool:
        if step == 0 or (record := _parse(line)) is None:
            return False
        is_again = record.get("kind") in again
        return bool(record["step"] < step if is_again else record["step"] <= step)

    with path.open("rb") as old:
        num_removed = sum(not stays(line) for line in old)
        if num_removed == 0:
            return
        old.seek(0)
        with written_whole(path) as partial, partial.open("wb") as new:
            new.writelines(line for line in old if stays(line))
    _LOGGER.info(
        "Removed %s after step %d from %s; these steps are repeated.", format_number(num_removed, "record"), step, path
    )


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if the line is incomplete or invalid."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
