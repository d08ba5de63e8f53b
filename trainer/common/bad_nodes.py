"""Hosts that a run should not get again: `bad_nodes.jsonl` in its directory, read when it is submitted and requeued."""

import json
from collections.abc import Iterable
from pathlib import Path

from trainer.common.line_file import append_durably

BAD_NODES_NAME = "bad_nodes.jsonl"
"""One JSON object with `host` and `reason` per line; slurm/train.sbatch reads it too."""


def read_bad_nodes(run_directory: Path) -> list[str]:
    """Hosts by their short names, sorted; a line that is no JSON is passed over."""
    hosts = set()
    try:
        lines = (run_directory / BAD_NODES_NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            hosts.add(str(json.loads(line)["host"]).partition(".")[0])
        except (ValueError, TypeError, KeyError):
            continue
    return sorted(hosts)


def note_bad_nodes(run_directory: Path, hosts: Iterable[str], *, reason: str) -> None:
    """Add hosts, each with the reason, in one write that survives the process.

    Raises:
        OSError: it cannot be written.
    """
    lines = "".join(
        json.dumps({"host": host.partition(".")[0], "reason": reason}) + "\n" for host in sorted(set(hosts))
    )
    append_durably(run_directory / BAD_NODES_NAME, lines)
