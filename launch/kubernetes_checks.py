"""Settings of `cluster.kubernetes` that no cluster would take, named before there is a manifest."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from trainer.config.kubernetes import KubernetesConfig
from trainer.config.rules.slurm import check_environment
from trainer.config.schema import TrainConfig
from trireme.config.suggest import to_yaml
from trireme.errors import Violation

_PATH = "cluster.kubernetes"
_LONGEST_NAME = 50
"""Of 63 characters that a label may have; the operators append such as -worker-127."""
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUALIFIED = rf"({_LABEL}(\.{_LABEL})*/)?{_NAME}"
_IMAGE_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"((?=[^/]*[.:]|localhost/)[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]+)?/)?{_IMAGE_PART}(/{_IMAGE_PART})*"
    r"(:\w[\w.-]{0,127})?(@[A-Za-z][A-Za-z0-9]*([-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""Source: github.com/distribution/reference."""
_POD_FIELDS = {
    "imagePullSecrets": "pull_secrets",
    "hostNetwork": "host_network",
    "nodeSelector": "node_selector",
    "priorityClassName": "priority_class",
    "restartPolicy": "max_restarts",
    "serviceAccountName": "service_account",
    "terminationGracePeriodSeconds": "grace_seconds",
    "tolerations": "tolerations",
}
_CONTAINER_FIELDS = {
    "args": "python",
    "command": "python",
    "env": "environment",
    "image": "image",
    "name": "kind",
    "resources": "resources",
    "workingDir": "directory",
}
"""What a patch may not set, since a field of its own does."""


def check_kubernetes(config: TrainConfig, *, job_name: str) -> Iterator[Violation]:
    """Name what is wrong with the settings of the job, beyond the rules of the run."""
    settings = config.cluster.kubernetes
    if len(job_name) > _LONGEST_NAME:
        rule = f"makes the job's name {job_name} longer than the {_LONGEST_NAME} characters that pods leave it"
        yield Violation(path="run_name", value=config.run_name, message=rule, fix="shorten it")
    yield from _check_image(settings.image)
    yield from _check_names(settings)
    yield from _check_directories(config)
    for name, source in settings.secrets.items():
        secret, _, key = source.partition("/")
        if not (re.fullmatch(_SUBDOMAIN, secret) and re.fullmatch(r"[-._a-zA-Z0-9]+", key)):
            rule, fix = "does not name a key of a secret", "write SECRET/KEY"
            yield Violation(path=f"{_PATH}.secrets.{name}", value=source, message=rule, fix=fix)
    yield from check_environment(f"{_PATH}.environment", settings.environment)
    yield from check_environment(f"{_PATH}.secrets", settings.secrets)
    yield from _check_labels(settings)
    yield from _check_patch("pod", settings.pod, fields=_POD_FIELDS)
    yield from _check_patch("container", settings.container, fields=_CONTAINER_FIELDS)


def _check_image(image: str | None) -> Iterator[Violation]:
    path = f"{_PATH}.image"
    if not image:
        fix = "name the image that holds this project and its dependencies"
        yield Violation(path=path, value=to_yaml(image), message="is required", fix=fix)
    elif not _IMAGE.fullmatch(image):
        fix = "write [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST], NAME in lower case and without https://"
        yield Violation(path=path, value=to_yaml(image), message="is no reference of an image", fix=fix)


def _check_names(settings: KubernetesConfig) -> Iterator[Violation]:
    """Names of other objects of the cluster."""
    label = "lower-case letters, digits and hyphens, 63 at most, with a letter or digit at both ends"
    subdomain = "lower-case letters, digits, hyphens and dots, with a letter or digit at both ends"
    named = [
        ("namespace", settings.namespace, _LABEL, label),
        ("runtime", settings.runtime, _SUBDOMAIN, subdomain),
        ("service_account", settings.service_account, _SUBDOMAIN, subdomain),
        ("priority_class", settings.priority_class, _SUBDOMAIN, subdomain),
        *((f"pull_secrets[{n}]", name, _SUBDOMAIN, subdomain) for n, name in enumerate(settings.pull_secrets)),
        *((f"claims.{place}", name, _SUBDOMAIN, subdomain) for place, name in settings.claims.items()),
    ]
    for field, name, pattern, form in named:
        if name is not None and not re.fullmatch(pattern, name):
            rule = "is no name that Kubernetes takes"
            yield Violation(path=f"{_PATH}.{field}", value=to_yaml(name), message=rule, fix=f"use {form}")


def _check_directories(config: TrainConfig) -> Iterator[Violation]:
    settings = config.cluster.kubernetes
    for directory in settings.claims:
        if not directory.startswith("/"):
            rule, fix = "is no absolute directory", f"write {{/{directory}: CLAIM}}"
            yield Violation(path=f"{_PATH}.claims", value=directory, message=rule, fix=fix)
        elif ":" in directory or directory.rstrip("/") in ("", "/dev/shm", "/etc/trireme"):
            rule = "is no directory that a claim can be mounted at"
            fix = "name another one, without a colon; /dev/shm and /etc/trireme are taken"
            yield Violation(path=f"{_PATH}.claims", value=directory, message=rule, fix=fix)
    if not settings.directory.startswith("/"):
        rule, fix = "is no absolute directory", f"write /{settings.directory}"
        yield Violation(path=f"{_PATH}.directory", value=to_yaml(settings.directory), message=rule, fix=fix)
    output = PurePosixPath(settings.directory, config.output_dir)
    if not any(output.is_relative_to(directory) for directory in settings.claims):
        yield Violation(
            path=f"{_PATH}.claims",
            value="{" + ", ".join(settings.claims) + "}",
            message=f"has no claim that holds output_dir, {output}: checkpoints would go away with their pod",
            fix=f"add {{{output}: CLAIM}}",
        )


def _check_labels(settings: KubernetesConfig) -> Iterator[Violation]:
    labels = {"labels": settings.labels, "pod_labels": settings.pod_labels, "node_selector": settings.node_selector}
    keyed: dict[str, Mapping[str, object]] = {
        **labels,
        "annotations": settings.annotations,
        "pod_annotations": settings.pod_annotations,
        "resources": settings.resources,
    }
    for field, mapping in keyed.items():
        for key in mapping:
            if not re.fullmatch(_QUALIFIED, key):
                fix = "write NAME or DOMAIN/NAME, NAME of 63 letters, digits, -, _ and . at most"
                yield Violation(
                    path=f"{_PATH}.{field}", value=to_yaml(key), message="is no key that Kubernetes takes", fix=fix
                )
    for field, values in labels.items():
        for key, value in values.items():
            if value and not re.fullmatch(_NAME, value):
                rule, fix = "is no value of a label", "use 63 letters, digits, -, _ and . at most"
                yield Violation(path=f"{_PATH}.{field}.{key}", value=to_yaml(value), message=rule, fix=fix)
    own = {"cpu": "cpus", "memory": "memory", settings.gpu_resource: "gpu_resource with cluster.gpus_per_node"}
    for name, value in settings.resources.items():
        if name in own:
            rule, fix = "is a resource with a field of its own", f"set {_PATH}.{own[name]}"
            yield Violation(path=f"{_PATH}.resources.{name}", value=to_yaml(value), message=rule, fix=fix)
    if not re.fullmatch(_QUALIFIED, settings.gpu_resource):
        rule, fix = "is no name of a resource", "write it as `kubectl describe node` does, such as nvidia.com/gpu"
        yield Violation(path=f"{_PATH}.gpu_resource", value=to_yaml(settings.gpu_resource), message=rule, fix=fix)


def _check_patch(field: str, patch: Mapping[str, object], *, fields: Mapping[str, str]) -> Iterator[Violation]:
    for key, value in patch.items():
        if key in fields:
            rule, fix = "has a field of its own", f"set {_PATH}.{fields[key]}"
            yield Violation(path=f"{_PATH}.{field}.{key}", value=to_yaml(value), message=rule, fix=fix)
