"""Whether processes can be shared out to nodes, each of which starts as many as the others."""

from collections.abc import Iterator

from trainer.config.plan import count_processes
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, either
from trireme.errors import Violation
from trireme.progress import format_number


def check_nodes(config: TrainConfig) -> Iterator[Violation]:
    """Name a number of nodes that does not divide the processes; only a layout that counts them can be at fault."""
    num_nodes, num_processes = config.cluster.num_nodes, count_processes(config)
    processes = format_number(num_processes, "process")
    # Less than one is refused by the rule about ranges.
    if num_nodes >= 1 and num_processes % num_nodes:
        yield Violation(
            path="cluster.num_nodes",
            value=num_nodes,
            rule=f"does not divide the {processes} of the layout, and every node starts as many",
            fix=f"use {either(divisors(num_processes))}, or set cluster.gpus_per_node",
        )


def processes_per_node(config: TrainConfig) -> int:
    """Processes that each node starts, where `check_nodes` finds nothing wrong."""
    return count_processes(config) // config.cluster.num_nodes
