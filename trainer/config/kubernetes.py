"""How a run is described to a Kubernetes cluster: the settings `cluster.kubernetes`."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """The manifest that `python -m launch.kubernetes` prints (docs/slurm.md). cluster.num_nodes is the number of pods,
    cluster.gpus_per_node the GPUs of each."""

    kind: Literal["PyTorchJob", "TrainJob"] = "PyTorchJob"
    """PyTorchJob of the Kubeflow training operator (kubeflow.org/v1), or TrainJob of its successor, Kubeflow Trainer
    (trainer.kubeflow.org/v1alpha1)."""
    image: str | None = None
    """Container image with this project and its dependencies; required."""
    namespace: str | None = None
    """Namespace; null takes the one that kubectl is set to."""
    runtime: str = "torch-distributed"
    """TrainJob: the ClusterTrainingRuntime that it builds on."""
    claims: dict[str, str] = field(default_factory=dict)
    """Directory -> PersistentVolumeClaim mounted there; output_dir and the data must lie in one, shared by all pods."""
    directory: str = "/workspace"
    """Where the pods work: relative paths, such as output_dir, start here."""
    python: str = "python3"
    """Interpreter in the image."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    cpus: str | None = None
    """CPUs of a pod, such as 32."""
    memory: str | None = None
    """Memory of a pod, such as 512Gi."""
    shared_memory: str = "64Gi"
    """Most that /dev/shm may hold, which NCCL uses inside a pod."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that its nodes must have."""
    service_account: str | None = None
    """Service account of the pods."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the run."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variable -> SECRET/KEY that it is taken from, such as {WANDB_API_KEY: wandb/api-key}."""
    max_restarts: int = 10
    """PyTorchJob: starts again after a failure or an eviction."""
    grace_seconds: int = 300
    """Between the request to leave and the end of a pod: a step and a checkpoint must fit in."""
