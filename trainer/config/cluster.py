"""Define the `cluster` group: the hosts of a run."""

from dataclasses import dataclass, field

from trainer.config.kubernetes import KubernetesConfig
from trainer.config.slurm import SlurmConfig


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The hosts of a run."""

    num_nodes: int = 1
    """Number of hosts."""
    gpus_per_node: int | None = None
    """Accelerators per host; null derives the number of processes from the layout (CPU)."""
    device: str | None = None
    """Type of accelerator for predictions, listed in docs/launch/before_you_launch.md; null means cpu."""
    device_peak_tflops: float | None = None
    """Dense peak of one device in bf16 TFLOP/s, for MFU; null looks the device up by name, and reports
    no MFU for an unknown one."""
    device_memory_gib: float | None = None
    """Memory of one device in GiB, for predictions; null takes that of its type."""
    intra_node_gb_per_second: float | None = None
    """10^9 bytes per second and direction between devices of a host (NVLink), for predictions; null takes that of
    the type."""
    inter_node_gb_per_second: float | None = None
    """10^9 bytes per second and direction from one device to other hosts (its share of the host's network), for
    predictions; null takes the usual bandwidth for the type."""
    device_price_per_hour: float | None = None
    """Price of one device per hour in US dollars, for predictions of cost; null predicts no cost. That of a preset is
    a rounded list price of 2025."""
    timeout_seconds: int = 1800
    """Timeout of a collective operation. On CPUs with health.watchdog, the limits of `health` apply instead; they do
    not count time for which the run was suspended."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The job on a Slurm cluster."""
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """The job on a Kubernetes cluster."""
