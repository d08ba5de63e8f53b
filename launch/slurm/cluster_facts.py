"""Query the cluster: Slurm's names of nodes, and the maximum size of a job array."""

import re
from collections.abc import Iterable

from trireme.slurm import SlurmError, ask_slurm


def find_nodes(hosts: Iterable[str]) -> dict[str, str | None]:
    """Return Slurm's name of each host; None for a host that it does not know.

    Slurm rejects a whole node list because of one unknown name. A host keeps its name when Slurm does not answer.
    """
    return {host: _find_node(host) for host in hosts}


def max_array_size() -> int | None:
    """Return the maximum number of elements of a job array, 1 without arrays; None when Slurm does not answer."""
    try:
        text = ask_slurm("scontrol", "show", "config")
    except SlurmError:
        return None
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return max(1, int(match.group(1))) if match else None


def _find_node(host: str) -> str | None:
    for name in dict.fromkeys((host, host.partition(".")[0])):
        try:
            ask_slurm("scontrol", "show", "node", name)
        except SlurmError as error:
            if "not found" in str(error):
                continue
        return name
    return None
