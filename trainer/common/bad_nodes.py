"""Hosts that a run should not get again: `bad_nodes.jsonl` in its directory, read when it is submitted and requeued."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.common.line_file import append_durably

BAD_NODES_NAME = "bad_nodes.jsonl"
"""One JSON object with `host` and `reason` per line; slurm/train.sbatch reads it too."""


def read_bad_nodes(run_directory: Path) -> list[str]:
    """Hosts by their short names, sorted; a line that is no JSON is passed over."""
    return sorted({str(note["host"]).partition(".")[0] for note in _read_notes(run_directory)})


def read_suspect_steps(run_directory: Path) -> set[int]:
    """Steps in which a host was found to hold the others up."""
    return {note["step"] for note in _read_notes(run_directory) if "step" in note}


def note_bad_nodes(run_directory: Path, hosts: Iterable[str], *, reason: str, step: int | None = None) -> None:
    """Add hosts, each with the reason, in one write that survives the process.

    Args:
        step: in which they held the others up, where that is the reason.
    Raises:
        OSError: it cannot be written.
    """
    further = {} if step is None else {"step": step}
    lines = "".join(
        json.dumps({"host": host.partition(".")[0], "reason": reason, **further}) + "\n" for host in sorted(set(hosts))
    )
    append_durably(run_directory / BAD_NODES_NAME, lines)


def _read_notes(run_directory: Path) -> list[dict[str, Any]]:
    try:
        lines = (run_directory / BAD_NODES_NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    notes = []
    for line in lines:
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if isinstance(note, dict) and "host" in note:
            notes.append(note)
    return notes
