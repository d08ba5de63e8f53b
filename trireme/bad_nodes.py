"""Hosts that a run should not get again: `bad_nodes.jsonl` in its directory, read when it is submitted and requeued."""

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
    """Return the name that Slurm has for this host, where it started this process, or the host's own short name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def read_bad_nodes(run_directory: Path) -> list[str]:
    """Return the hosts as they were noted, sorted; a line that is no JSON is passed over."""
    return sorted({note["host"] for note in _read_notes(run_directory)})


def note_bad_nodes(run_directory: Path, hosts: Iterable[str], *, reason: str) -> None:
    """Add hosts, each with the reason, in one write that survives the process.

    Raises:
        OSError: it cannot be written.
    """
    _append(run_directory, hosts, {"reason": reason})


def note_suspects(run_directory: Path, hosts: Iterable[str], *, reason: str, step: int) -> bool:
    """Add hosts that held the others up in a step, unless others are noted for it: then it is the step's fault.

    Returns:
        Whether they were added.
    Raises:
        OSError: it cannot be read or written.
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
