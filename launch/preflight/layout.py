"""Whether the layout suits the cluster's hosts, beyond what the rules between fields refuse."""

from collections.abc import Iterator

from launch.preflight.finding import Finding, judge, skipped
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors
from trireme.errors import Violation


def check_layout(config: TrainConfig) -> Finding:
    """Whether tensor parallelism stays inside a host, whose links are ten times as fast as those between hosts."""
    per_host = config.cluster.gpus_per_node
    if per_host is None:
        return skipped("layout", "cluster.gpus_per_node is null: hosts are not known")
    tensor = config.parallel.tensor_model_parallel_size
    return judge("layout", _violations(config, per_host), otherwise=f"tensor parallelism of {tensor} inside {per_host}")


def _violations(config: TrainConfig, per_host: int) -> Iterator[Violation]:
    parallel = config.parallel
    sizes = {
        "parallel.tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "parallel.expert_tensor_parallel_size": parallel.expert_tensor_parallel_size or 1,
    }
    inside = ", ".join(map(str, divisors(per_host)))
    for path, size in sizes.items():
        if size > 1 and per_host % size:
            yield Violation(
                path=path,
                value=size,
                rule=f"puts ranks of one group on different hosts of cluster.gpus_per_node={per_host}",
                fix=f"use {inside}, or accept=layout if the links between hosts are that fast",
            )
