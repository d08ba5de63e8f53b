"""What the cluster says of itself: nodes that it knows, and how long a job array may be."""

import re
from collections.abc import Iterable

from trireme.slurm import SlurmError, ask_slurm


def find_nodes(hosts: Iterable[str]) -> dict[str, str | None]:
    """Return Slurm's name of each host; None where it says that it has no such node.

    Slurm refuses a list of nodes for one name that it does not know. A host that it cannot be asked about keeps its
    name.
    """
    return {host: _find_node(host) for host in hosts}


def max_array_size() -> int | None:
    """Return how many runs a job array takes, 1 where there are no arrays; None where Slurm does not say."""
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
