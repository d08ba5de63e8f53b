"""How a run is described to a Kubernetes cluster: the settings `cluster.kubernetes`."""

from dataclasses import dataclass, field
from typing import Any, Literal

JOB_VARIABLE = "TRIREME_JOB_ID"
"""Environment variable that tells one printed manifest from another: pods that start again know their job by it."""


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """The manifest that `python -m launch.kubernetes` prints (docs/launch/clusters.md). cluster.num_nodes is the number
    of pods, cluster.gpus_per_node the GPUs of each."""

    kind: Literal["PyTorchJob", "TrainJob"] = "PyTorchJob"
    """PyTorchJob of the Kubeflow training operator (kubeflow.org/v1), or TrainJob of its successor, Kubeflow Trainer
    (trainer.kubeflow.org/v1alpha1)."""
    image: str | None = None
    """Container image with this project and its dependencies; required."""
    namespace: str | None = None
    """Namespace; null takes the one that kubectl is set to."""
    runtime: str | None = None
    """TrainJob: the ClusterTrainingRuntime that it builds on, such as torch-distributed, which then decides about
    restarts; null prints a TrainingRuntime with it, which restarts as a PyTorchJob does."""
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
    resources: dict[str, Any] = field(default_factory=dict)
    """Further resources of a pod, such as {vpc.amazonaws.com/efa: 32} or {rdma/ib: 1}."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that its nodes must have."""
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    """Taints of nodes that its pods accept, such as [{key: nvidia.com/gpu, operator: Exists}]."""
    priority_class: str | None = None
    """PriorityClass of the pods."""
    service_account: str | None = None
    """Service account of the pods."""
    pull_secrets: list[str] = field(default_factory=list)
    """Secrets that the image is pulled with."""
    host_network: bool = False
    """Give the pods their node's network, where the cluster has no other way to its fabric."""
    capabilities: list[str] = field(default_factory=list)
    """Linux capabilities of the container, such as [IPC_LOCK], which RDMA needs to pin memory."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the job, such as {kueue.x-k8s.io/queue-name: research}."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of the job."""
    pod_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the pods."""
    pod_annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of the pods, such as those that name further networks."""
    pod: dict[str, Any] = field(default_factory=dict)
    """Whatever else a PodSpec may have, such as {schedulerName: volcano}; items of its lists are added to those that
    are there, so that volumes adds volumes and containers adds sidecars."""
    container: dict[str, Any] = field(default_factory=dict)
    """Whatever else the container may have, such as {volumeMounts: [{name: gib, mountPath: /usr/local/gib}]}."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the run; $(NAME) in a value is the value of a variable before it."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variable -> SECRET/KEY that it is taken from, such as {WANDB_API_KEY: wandb/api-key}."""
    max_restarts: int = 10
    """Restarts in a row that may bring no newer checkpoint before the job fails; those after an eviction do not count.
    Exit codes 2 (wrong input) and 82 (training went wrong) are never restarted."""
    grace_seconds: int = 300
    """Between the request to leave and the end of a pod: a step and a checkpoint must fit in."""
