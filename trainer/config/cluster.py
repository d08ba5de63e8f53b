"""The machines of a run: the `cluster` group."""

from dataclasses import dataclass, field

from trainer.config.kubernetes import KubernetesConfig
from trainer.config.slurm import SlurmConfig


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The machines of a run."""

    num_nodes: int = 1
    """Hosts of the job."""
    gpus_per_node: int | None = None
    """Accelerators of one host; null where the launcher counts processes from the layout (CPU)."""
    device: str | None = None
    """Type of accelerator, for predictions (docs/launch/before_you_launch.md lists them); null means cpu."""
    device_peak_tflops: float | None = None
    """Dense peak of one device in bf16 TFLOP/s, for MFU; null looks the device up by name, and leaves MFU out
    when it is unknown."""
    device_memory_gib: float | None = None
    """Memory of one device in 2^30 bytes, for predictions; null takes that of its type."""
    intra_node_gb_per_second: float | None = None
    """10^9 bytes per second and direction between devices of a host (NVLink), for predictions; null takes that of
    the type."""
    inter_node_gb_per_second: float | None = None
    """10^9 bytes per second and direction from one device to other hosts (its share of the host's network), for
    predictions; null takes what is usual for the type."""
    device_price_per_hour: float | None = None
    """Price of one device for an hour, for predictions of cost, in any currency; null leaves cost out."""
    timeout_seconds: int = 1800
    """Longest wait in one collective operation. On CPUs, what a run with health.watchdog waits for is limited by
    `health` instead, which does not count time for which the run was suspended."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The job on a Slurm cluster."""
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """The job on a Kubernetes cluster."""
