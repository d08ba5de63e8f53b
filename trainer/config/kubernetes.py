"""Define the settings `cluster.kubernetes`: the job of a run on a Kubernetes cluster."""

from dataclasses import dataclass, field
from typing import Any, Literal

JOB_VARIABLE = "TRIREME_JOB_ID"
"""Environment variable that identifies a printed manifest: restarted pods recognize their job by it."""


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """The manifest that `trireme kubernetes` prints (docs/launch/clusters.md). cluster.num_nodes is the number
    of pods, cluster.gpus_per_node the GPUs of each."""

    kind: Literal["PyTorchJob", "TrainJob"] = "PyTorchJob"
    """PyTorchJob of the Kubeflow training operator (kubeflow.org/v1), or TrainJob of its successor, Kubeflow Trainer
    (trainer.kubeflow.org/v1alpha1)."""
    image: str | None = None
    """Container image with this project and its dependencies; required."""
    namespace: str | None = None
    """Namespace; null takes kubectl's current one."""
    runtime: str | None = None
    """ClusterTrainingRuntime of a TrainJob, such as torch-distributed, which then controls restarts; null prints a
    TrainingRuntime along with it, which restarts as a PyTorchJob does."""
    claims: dict[str, str] = field(default_factory=dict)
    """Directory -> PersistentVolumeClaim mounted there; output_dir and the data must be in one shared by all pods."""
    directory: str = "/workspace"
    """Working directory of the pods: relative paths, such as output_dir, start here."""
    python: str = "python3"
    """Python interpreter in the image."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource name of a GPU."""
    cpus: str | None = None
    """CPUs per pod, such as 32."""
    memory: str | None = None
    """Memory per pod, such as 512Gi."""
    shared_memory: str = "64Gi"
    """Size limit of /dev/shm, which NCCL uses inside a pod."""
    resources: dict[str, Any] = field(default_factory=dict)
    """Additional resources per pod, such as {vpc.amazonaws.com/efa: 32} or {rdma/ib: 1}."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that nodes must have."""
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    """Node taints that the pods tolerate, such as [{key: nvidia.com/gpu, operator: Exists}]."""
    priority_class: str | None = None
    """PriorityClass of the pods."""
    service_account: str | None = None
    """Service account of the pods."""
    pull_secrets: list[str] = field(default_factory=list)
    """Secrets for pulling the image."""
    host_network: bool = False
    """Use the node's network in the pods, where the cluster offers no other access to its fabric."""
    capabilities: list[str] = field(default_factory=list)
    """Linux capabilities of the container, such as [IPC_LOCK], which RDMA needs to pin memory."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the job, such as {kueue.x-k8s.io/queue-name: research}."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of the job."""
    pod_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the pods."""
    pod_annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of the pods, such as those that attach additional networks."""
    pod: dict[str, Any] = field(default_factory=dict)
    """Additional fields of the PodSpec, such as {schedulerName: volcano}; items of its lists are appended, so that
    volumes adds volumes and containers adds sidecars."""
    container: dict[str, Any] = field(default_factory=dict)
    """Additional fields of the container, such as {volumeMounts: [{name: gib, mountPath: /usr/local/gib}]}."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the run; $(NAME) in a value is replaced by the value of an earlier variable."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variable -> SECRET/KEY that holds its value, such as {WANDB_API_KEY: wandb/api-key}."""
    max_restarts: int = 10
    """Consecutive restarts without a newer checkpoint before the job fails; restarts after an eviction do not count.
    Exit codes 2 (wrong input) and 82 (training diverged) are never restarted."""
    grace_seconds: int = 300
    """Seconds between the stop signal and the end of a pod: one step and one checkpoint must fit."""
