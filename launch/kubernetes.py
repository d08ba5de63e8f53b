"""Train on a Kubernetes cluster: check everything and print the manifest that runs it.

usage: python -m launch.kubernetes OVERRIDES > job.yaml; kubectl apply -f job.yaml

OVERRIDES are those of `trainer.train`; cluster.num_nodes, cluster.gpus_per_node and cluster.kubernetes.* describe the
job (docs/slurm.md). For example:

  python -m launch.kubernetes cluster=h100 cluster.num_nodes=4 cluster.kubernetes.image=registry/trireme:1 \\
    'cluster.kubernetes.claims={/workspace: runs, /data: corpus}' run_name=first model=llama_8b parallel=tp8 ...

The manifest holds a ConfigMap with the resolved configuration and a PyTorchJob of the Kubeflow training operator, or
with cluster.kubernetes.kind=TrainJob one of its successor, Kubeflow Trainer. A pod that fails or is evicted starts
again, and the run goes on from its newest checkpoint.

Exit codes: 0 done; 2 bad configuration or input (every problem is printed, and no manifest).
"""

import hashlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.manifest_schema import check_manifest
from launch.nodes import check_nodes, processes_per_node
from trainer.common.errors import EXIT_OK, Violation, exit_code_of, raise_if_any
from trainer.config.load import dump_config, load_config
from trainer.config.plan import count_processes
from trainer.config.rules.slurm import check_environment
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate

CONFIG_DIRECTORY = "/etc/trireme"
_LONGEST_NAME = 50
"""Of 63 characters that a label may have; the operators append such as -worker-127."""


class _PlainDumper(yaml.SafeDumper):
    """Writes YAML for people: everything where it belongs instead of references, texts of many lines as they are."""

    def ignore_aliases(self, data: object) -> bool:
        """No references."""
        return True


_PlainDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> int:
    """The command: exit code 2 with every problem named where the configuration cannot be used."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Check the configuration and print the manifest.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write((__doc__ or "").lstrip())
        return EXIT_OK
    config = load_config(arguments)
    # Paths are those of the pods.
    elsewhere = ("tokenizer.path", "output_dir", "resume")
    problems = validate(config, world_size=count_processes(config), ignore=elsewhere)
    raise_if_any([*problems, *check_nodes(config), *_check(config)])
    config_map, job = build_manifest(config)
    raise_if_any(check_manifest(job))
    sys.stdout.write(yaml.dump_all([config_map, job], Dumper=_PlainDumper, sort_keys=False, width=120))
    return EXIT_OK


def build_manifest(config: TrainConfig) -> list[dict[str, Any]]:
    """The documents of the manifest: the ConfigMap and the job.

    Source: pytorchjobs.kubeflow.org v1 (training operator 1.9), trainjobs.trainer.kubeflow.org v1alpha1 (Trainer 2.3).
    """
    settings = config.cluster.kubernetes
    text = dump_config(config)
    # Its name changes with its content, so that pods which start again get the configuration of their job.
    config_name = f"{job_name(config)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(config, config_name),
        "immutable": True,
        "data": {"config.yaml": text},
    }
    build = _build_train_job if settings.kind == "TrainJob" else _build_pytorch_job
    return [config_map, build(config, config_name)]


def job_name(config: TrainConfig) -> str:
    """The run's name as Kubernetes writes names: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", f"trireme-{config.run_name}".lower()).strip("-")


def _build_pytorch_job(config: TrainConfig, config_name: str) -> dict[str, Any]:
    settings, num_nodes = config.cluster.kubernetes, config.cluster.num_nodes
    replica = {
        "restartPolicy": "OnFailure",
        "template": {
            "spec": {
                **_pod_settings(config, config_name),
                "containers": [
                    # The operator looks for a container of this name.
                    {"name": "pytorch", "image": settings.image, **_container(config), "volumeMounts": _mounts(config)}
                ],
            }
        },
    }
    replicas = {"Master": {"replicas": 1, **replica}}
    if num_nodes > 1:
        replicas["Worker"] = {"replicas": num_nodes - 1, **replica}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(config, job_name(config)),
        "spec": {
            "nprocPerNode": str(processes_per_node(config)),
            "runPolicy": {"backoffLimit": settings.max_restarts, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _build_train_job(config: TrainConfig, config_name: str) -> dict[str, Any]:
    settings, num_nodes = config.cluster.kubernetes, config.cluster.num_nodes
    container = _container(config)
    pod = {**_pod_settings(config, config_name), "containers": [{"name": "node", "volumeMounts": _mounts(config)}]}
    job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(config, job_name(config)),
        "spec": {
            "runtimeRef": {"name": settings.runtime},
            "trainer": {
                "image": settings.image,
                "command": container["command"],
                "env": container["env"],
                "numNodes": num_nodes,
                "numProcPerNode": processes_per_node(config),
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": "trireme.launch/kubernetes",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
                }
            ],
        },
    }


def _container(config: TrainConfig) -> dict[str, Any]:
    """What a pod runs. Both operators tell torchrun, in variables PET_*, of all pods and this one's number."""
    settings, gpus = config.cluster.kubernetes, config.cluster.gpus_per_node
    amounts = {"cpu": settings.cpus, "memory": settings.memory, settings.gpu_resource: gpus and str(gpus)}
    resources = {name: amount for name, amount in amounts.items() if amount is not None}
    torchrun = [settings.python, "-m", "trainer.torchrun", "--shutdown-timeout", str(settings.grace_seconds)]
    train = ["-m", "trainer.train", f"config_file={CONFIG_DIRECTORY}/config.yaml"]
    variables: list[dict[str, Any]] = [
        {"name": name, "value": str(value).lower() if isinstance(value, bool) else str(value)}
        for name, value in settings.environment.items()
    ]
    for name, source in settings.secrets.items():
        secret, _, key = source.partition("/")
        variables.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return {
        # exec: signals reach torchrun.
        "command": ["bash", "-c", f"cd {shlex.quote(settings.directory)} && exec {shlex.join([*torchrun, *train])}"],
        "env": variables,
        "resources": {"requests": resources, "limits": resources},
    }


def _pod_settings(config: TrainConfig, config_name: str) -> dict[str, Any]:
    settings = config.cluster.kubernetes
    pod: dict[str, Any] = {
        # A pod that is told to leave saves first.
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "volumes": [
            {"name": "config", "configMap": {"name": config_name}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
            *(
                {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}}
                for number, claim in enumerate(settings.claims.values())
            ),
        ],
    }
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _mounts(config: TrainConfig) -> list[dict[str, Any]]:
    return [
        {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        *(
            {"name": f"claim-{number}", "mountPath": directory}
            for number, directory in enumerate(config.cluster.kubernetes.claims)
        ),
    ]


def _metadata(config: TrainConfig, name: str) -> dict[str, Any]:
    settings = config.cluster.kubernetes
    labels = {"app.kubernetes.io/name": "trireme", "app.kubernetes.io/instance": job_name(config)}
    return {"name": name, **({"namespace": settings.namespace} if settings.namespace else {}), "labels": labels}


def _check(config: TrainConfig) -> Iterator[Violation]:
    """What is wrong with the settings of the job, beyond the rules of the run."""
    settings, path = config.cluster.kubernetes, "cluster.kubernetes"
    if not settings.image:
        fix = "name the image that holds this project and its dependencies"
        yield Violation(path=f"{path}.image", value="null", rule="is required", fix=fix)
    if len(job_name(config)) > _LONGEST_NAME:
        rule = f"makes the job's name {job_name(config)} longer than the {_LONGEST_NAME} characters that pods leave it"
        yield Violation(path="run_name", value=config.run_name, rule=rule, fix="shorten it")
    for directory in settings.claims:
        if not directory.startswith("/"):
            rule, fix = "is no absolute directory", f"write {{/{directory}: CLAIM}}"
            yield Violation(path=f"{path}.claims", value=directory, rule=rule, fix=fix)
    output = PurePosixPath(settings.directory, config.output_dir)
    if not any(output.is_relative_to(directory) for directory in settings.claims):
        yield Violation(
            path=f"{path}.claims",
            value="{" + ", ".join(settings.claims) + "}",
            rule=f"has no claim that holds output_dir, {output}: checkpoints would go away with their pod",
            fix=f"add {{{output}: CLAIM}}",
        )
    for name, source in settings.secrets.items():
        if not re.fullmatch(r"[^/]+/[^/]+", source):
            rule, fix = "does not name a key of a secret", "write SECRET/KEY"
            yield Violation(path=f"{path}.secrets.{name}", value=source, rule=rule, fix=fix)
    yield from check_environment(f"{path}.environment", settings.environment)
    yield from check_environment(f"{path}.secrets", settings.secrets)


if __name__ == "__main__":
    sys.exit(main())
