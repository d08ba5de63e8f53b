"""Train on a Kubernetes cluster: check the configuration and print the manifest of the job.

usage: trireme kubernetes OVERRIDES > job.yaml; kubectl apply -f job.yaml

OVERRIDES are those of `trireme train`; cluster.num_nodes, cluster.gpus_per_node and cluster.kubernetes.* describe the
job (docs/launch/clusters.md). For example:

  trireme kubernetes cluster=h100 cluster.num_nodes=4 cluster.kubernetes.image=registry/trireme:1 \\
    'cluster.kubernetes.claims={/workspace: runs, /data: corpus}' run_name=first model=llama_8b parallel=tp8 ...

The manifest contains a ConfigMap with the resolved configuration and a PyTorchJob of the Kubeflow training operator.
With cluster.kubernetes.kind=TrainJob, it contains a TrainJob and a TrainingRuntime of Kubeflow Trainer instead. A pod
that fails or is evicted restarts, and the run resumes from its latest checkpoint. Exit codes 2 and 82 of the run end
the job.

Exit codes: 0 done; 2 bad configuration or input (all errors are printed, and no manifest).
"""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.cli import check_nodes, processes_per_node
from launch.environment import device_variables
from launch.kubernetes_checks import check_kubernetes
from launch.manifest_schema import check_manifest
from launch.pod_script import FINAL_CODES, pod_command
from trainer.config.derived import count_processes
from trainer.config.kubernetes import JOB_VARIABLE
from trainer.config.load import dump_config, load_config
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.errors import EXIT_OK, exit_code_of, raise_if_any

CONFIG_DIRECTORY = "/etc/trireme"
_PLAIN_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_HASH_LENGTH = 6


class _PlainDumper(yaml.SafeDumper):
    """Write readable YAML: no anchors and aliases, multi-line strings as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        """Write no anchors and aliases."""
        return True


_PlainDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Check the configuration and print the manifest.

    Raises:
        ConfigError: the configuration is invalid.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write((__doc__ or "").lstrip())
        return EXIT_OK
    config = load_config(arguments)
    # These paths exist in the pods, not here.
    elsewhere = ("tokenizer.path", "output_dir", "resume")
    problems = validate(config, world_size=count_processes(config), ignore=elsewhere)
    raise_if_any([*problems, *check_nodes(config), *check_kubernetes(config, job_name=job_name(config))])
    documents = build_manifest(config, job_id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
    raise_if_any(problem for document in documents[1:] for problem in check_manifest(document))
    sys.stdout.write(dump_manifest(documents))
    return EXIT_OK


def dump_manifest(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the documents as readable YAML."""
    return str(yaml.dump_all(documents, Dumper=_PlainDumper, sort_keys=False, width=120))


def build_manifest(config: TrainConfig, *, job_id: str) -> list[dict[str, Any]]:
    """Return the documents of the manifest: the ConfigMap first, the job last.

    Args:
        job_id: distinguishes this manifest from others of the run; its pods keep it when they restart.
    Source: pytorchjobs.kubeflow.org v1 (training operator 1.9), trainjobs.trainer.kubeflow.org v1alpha1 (Trainer 2.3).
    """
    settings = config.cluster.kubernetes
    text = dump_config(config)
    # Its name changes with its content, so that pods that restart get the configuration of their own job.
    config_name = f"{job_name(config)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(config, config_name),
        "immutable": True,
        "data": {"config.yaml": text},
    }
    build = _build_train_job if settings.kind == "TrainJob" else _build_pytorch_job
    return [config_map, *build(config, config_name, job_id)]


def job_name(config: TrainConfig) -> str:
    """Return the run's name as a valid Kubernetes name: lower-case letters, digits and hyphens.

    A name with other characters gets a hash as its suffix, so that a_b, A.B and a-b remain three jobs.
    """
    name = config.run_name
    plain = re.sub(r"[^a-z0-9]+", "-", f"trireme-{name}".lower()).strip("-")
    if _PLAIN_NAME.fullmatch(name):
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]}"


def _build_pytorch_job(config: TrainConfig, config_name: str, job_id: str) -> list[dict[str, Any]]:
    settings, num_nodes = config.cluster.kubernetes, config.cluster.num_nodes
    # The operator requires a container of this name.
    container = {"name": "pytorch", "image": settings.image, **_container(config, job_id)}
    replica = {
        # The operator replaces a pod that exits with 128 or more, and does not count it against
        # runPolicy.backoffLimit, which is for all pods together; the pods count themselves (launch/pod_script.py).
        "restartPolicy": "ExitCode" if settings.max_restarts else "Never",
        "template": {**_pod_metadata(config), "spec": _pod(config, config_name, container)},
    }
    replicas = {"Master": {"replicas": 1, **replica}}
    if num_nodes > 1:
        replicas["Worker"] = {"replicas": num_nodes - 1, **replica}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(config, job_name(config), is_job=True),
        "spec": {
            "nprocPerNode": str(processes_per_node(config)),
            # Keep finished pods for their logs, but not running ones, which hold GPUs while they wait for a lost pod.
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": replicas,
        },
    }
    return [job]


def _build_train_job(config: TrainConfig, config_name: str, job_id: str) -> list[dict[str, Any]]:
    settings, num_nodes = config.cluster.kubernetes, config.cluster.num_nodes
    full = _container(config, job_id)
    container = {"name": "node", **{key: value for key, value in full.items() if key not in _OF_TRAINER}}
    if settings.runtime is None:
        container["image"] = settings.image
    template = {**_pod_metadata(config), "spec": _pod(config, config_name, container)}
    runtime = {"name": settings.runtime} if settings.runtime else {"kind": "TrainingRuntime", "name": job_name(config)}
    job: dict[str, Any] = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(config, job_name(config), is_job=True),
        "spec": {
            "runtimeRef": runtime,
            "trainer": {
                "image": settings.image,
                "command": full["command"],
                "env": full["env"],
                "numNodes": num_nodes,
                "numProcPerNode": processes_per_node(config),
                "resourcesPerNode": full["resources"],
            },
        },
    }
    if settings.runtime is None:
        return [_build_runtime(config, template), job]
    patch = {"template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": template}}}]}}}
    job["spec"]["runtimePatches"] = [{"manager": "trireme.launch/kubernetes", "trainingRuntimeSpec": patch}]
    return [job]


def _build_runtime(config: TrainConfig, template: Mapping[str, Any]) -> dict[str, Any]:
    """Build the runtime of a TrainJob: all pods restart together, unless one exits with a final code."""
    rules = [
        {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
        {"name": "again", "action": "RestartJobSetAndIgnoreMaxRestarts"},
    ]
    if not config.cluster.kubernetes.max_restarts:
        rules = [{"name": "never", "action": "FailJobSet"}]
    is_final = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": sorted(FINAL_CODES)}}
    pods = {
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [is_final]},
        # Required by podFailurePolicy.
        "template": {**template, "spec": {"restartPolicy": "Never", **template["spec"]}},
    }
    # Kubeflow Trainer finds the framework and the training job by these labels.
    job_labels = {"metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}}
    metadata = _metadata(config, job_name(config))
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {**metadata, "labels": {**metadata["labels"], "trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": config.cluster.num_nodes, "torch": {}},
            "template": {
                "spec": {
                    "failurePolicy": {"rules": rules},
                    "replicatedJobs": [{"name": "node", "template": {**job_labels, "spec": pods}}],
                }
            },
        },
    }


_OF_TRAINER = ("command", "env", "resources")
"""Container fields that a TrainJob sets in spec.trainer."""


def _container(config: TrainConfig, job_id: str) -> dict[str, Any]:
    """Build the container. Both operators pass torchrun the number of pods and this pod's rank as PET_* variables."""
    settings, gpus = config.cluster.kubernetes, config.cluster.gpus_per_node
    amounts = {"cpu": settings.cpus, "memory": settings.memory, settings.gpu_resource: gpus and str(gpus)}
    amounts.update({name: str(amount) for name, amount in settings.resources.items()})
    resources = {name: amount for name, amount in amounts.items() if amount is not None}
    torchrun = [settings.python, "-m", "trainer.torchrun", "--shutdown-timeout", str(settings.grace_seconds)]
    train = ["-m", "trainer.train", f"config_file={CONFIG_DIRECTORY}/config.yaml"]
    run_directory = PurePosixPath(settings.directory, config.output_dir, config.run_name)
    # Kubernetes reads $$ as $.
    devices = device_variables(config, run_directory=PurePosixPath(str(run_directory).replace("$", "$$")))
    given = {**devices, **settings.environment}
    variables: list[dict[str, Any]] = [
        {"name": name, "value": str(value).lower() if isinstance(value, bool) else str(value)}
        for name, value in given.items()
        if name not in settings.secrets or name in settings.environment
    ]
    for name, source in settings.secrets.items():
        secret, _, key = source.partition("/")
        variables.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    container: dict[str, Any] = {
        "command": pod_command(
            [*torchrun, *train],
            directory=settings.directory,
            run_directory=run_directory,
            max_restarts=settings.max_restarts,
        ),
        "env": [*variables, {"name": JOB_VARIABLE, "value": job_id}],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": _mounts(config),
    }
    if settings.capabilities:
        container["securityContext"] = {"capabilities": {"add": list(settings.capabilities)}}
    return _merge_patch(container, settings.container)


def _pod(config: TrainConfig, config_name: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """Build the PodSpec."""
    settings = config.cluster.kubernetes
    optional = {
        "nodeSelector": dict(settings.node_selector),
        "tolerations": list(settings.tolerations),
        "priorityClassName": settings.priority_class,
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
    }
    pod: dict[str, Any] = {
        # Time to save a checkpoint after SIGTERM.
        "terminationGracePeriodSeconds": settings.grace_seconds,
        **{key: value for key, value in optional.items() if value},
        # On the host network, the cluster's DNS names do not resolve otherwise.
        **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if settings.host_network else {}),
        "volumes": [
            {"name": "config", "configMap": {"name": config_name}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
            *(
                {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}}
                for number, claim in enumerate(settings.claims.values())
            ),
        ],
        "containers": [dict(container)],
    }
    return _merge_patch(pod, settings.pod)


def _merge_patch(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a patch into a mapping: mappings are merged, list items appended, other values replaced."""
    joined = dict(base)
    for key, value in patch.items():
        there = joined.get(key)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            joined[key] = _merge_patch(there, value)
        elif isinstance(there, list) and isinstance(value, list):
            joined[key] = [*there, *value]
        else:
            joined[key] = value
    return joined


def _mounts(config: TrainConfig) -> list[dict[str, Any]]:
    return [
        {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        *(
            {"name": f"claim-{number}", "mountPath": directory}
            for number, directory in enumerate(config.cluster.kubernetes.claims)
        ),
    ]


def _metadata(config: TrainConfig, name: str, *, is_job: bool = False) -> dict[str, Any]:
    settings = config.cluster.kubernetes
    labels = {"app.kubernetes.io/name": "trireme", "app.kubernetes.io/instance": job_name(config)}
    metadata: dict[str, Any] = {"name": name}
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    metadata["labels"] = {**labels, **settings.labels} if is_job else labels
    if is_job and settings.annotations:
        metadata["annotations"] = dict(settings.annotations)
    return metadata


def _pod_metadata(config: TrainConfig) -> dict[str, Any]:
    settings = config.cluster.kubernetes
    given = {"labels": dict(settings.pod_labels), "annotations": dict(settings.pod_annotations)}
    metadata = {key: value for key, value in given.items() if value}
    return {"metadata": metadata} if metadata else {}


if __name__ == "__main__":
    sys.exit(main())
