"""Record hosts that a run must avoid: `bad_nodes.jsonl` in its directory, read at submission and at each requeue."""

import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trireme.files import append_durably

BAD_NODES_NAME = "bad_nodes.jsonl"
"""One JSON object with `host` and `reason` per line; slurm/train.sbatch reads it too."""


def this_host() -> str:
    """Return Slurm's name of this host where Slurm started this process, and its short host name otherwise."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def read_bad_nodes(run_directory: Path) -> list[str]:
    """Return the recorded hosts, sorted; skip lines that are not valid JSON."""
    return sorted({note["host"] for note in _read_notes(run_directory)})


def note_bad_nodes(run_directory: Path, hosts: Iterable[str], *, reason: str) -> None:
    """Append hosts, each with the reason, in one write that survives the process.

    Raises:
        OSError: the file cannot be written.
    """
    _append(run_directory, hosts, {"reason": reason})


def note_suspects(run_directory: Path, hosts: Iterable[str], *, reason: str, step: int) -> bool:
    """Append hosts that blocked a step, unless hosts are recorded for that step already: then the step is the cause.

    Returns:
        Whether they were added.
    Raises:
        OSError: the file cannot be read or written.
    """
    if any(note.get("step") == step for note in _read_notes(run_directory)):
        return False
    _append(run_directory, hosts, {"reason": reason, "step": step})
    return True


def _append(run_directory: Path, hosts: Iterable[str], fields: Mapping[str, object]) -> None:
    lines = "".join(json.dumps({"host": host, **fields}) + "\n" for host in sorted(set(hosts)))
    append_durably(run_directory / BAD_NODES_NAME, lines)


def _read_notes(run_directory: Path) -> list[dict[str, Any]]:
    try:
        lines = (run_directory / BAD_NODES_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    notes = []
    for line in lines:
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if isinstance(note, dict) and isinstance(note.get("host"), str):
            notes.append(note)
    return notes
