"""Check the settings of `cluster.kubernetes` that every cluster would reject, before the manifest is written."""

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
"""Of the 63 characters of a label; the operators append suffixes such as -worker-127."""
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
"""Fields that a patch must not set, and the setting to use instead."""


def check_kubernetes(config: TrainConfig, *, job_name: str) -> Iterator[Violation]:
    """Report errors in the settings of the job, beyond the rules of the run."""
    settings = config.cluster.kubernetes
    if len(job_name) > _LONGEST_NAME:
        rule = f"the job name {job_name} must have at most {_LONGEST_NAME} characters: pods append a suffix"
        yield Violation(path="run_name", value=config.run_name, message=rule, fix="Use a shorter run_name.")
    yield from _check_image(settings.image)
    yield from _check_names(settings)
    yield from _check_directories(config)
    for name, source in settings.secrets.items():
        secret, _, key = source.partition("/")
        if not (re.fullmatch(_SUBDOMAIN, secret) and re.fullmatch(r"[-._a-zA-Z0-9]+", key)):
            rule, fix = "must reference a key of a secret", "Use SECRET/KEY."
            yield Violation(path=f"{_PATH}.secrets.{name}", value=source, message=rule, fix=fix)
    yield from check_environment(f"{_PATH}.environment", settings.environment)
    yield from check_environment(f"{_PATH}.secrets", settings.secrets)
    yield from _check_labels(settings)
    yield from _check_patch("pod", settings.pod, fields=_POD_FIELDS)
    yield from _check_patch("container", settings.container, fields=_CONTAINER_FIELDS)


def _check_image(image: str | None) -> Iterator[Violation]:
    path = f"{_PATH}.image"
    if not image:
        fix = "Set it to an image that contains this project and its dependencies."
        yield Violation(path=path, value=to_yaml(image), message="is required", fix=fix)
    elif not _IMAGE.fullmatch(image):
        fix = "Use [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST], with NAME in lower case and without https://."
        yield Violation(path=path, value=to_yaml(image), message="must be an image reference", fix=fix)


def _check_names(settings: KubernetesConfig) -> Iterator[Violation]:
    """Check the names of other objects of the cluster."""
    label = "at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
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
            rule = "must be a valid Kubernetes name"
            yield Violation(path=f"{_PATH}.{field}", value=to_yaml(name), message=rule, fix=f"Use {form}.")


def _check_directories(config: TrainConfig) -> Iterator[Violation]:
    settings = config.cluster.kubernetes
    for directory in settings.claims:
        if not directory.startswith("/"):
            rule, fix = "mount paths must be absolute", f"Use {{/{directory}: CLAIM}}."
            yield Violation(path=f"{_PATH}.claims", value=directory, message=rule, fix=fix)
        elif ":" in directory or directory.rstrip("/") in ("", "/dev/shm", "/etc/trireme"):
            rule = "a claim cannot be mounted at this path"
            fix = "Use another path, without a colon; /dev/shm and /etc/trireme are reserved."
            yield Violation(path=f"{_PATH}.claims", value=directory, message=rule, fix=fix)
    if not settings.directory.startswith("/"):
        rule, fix = "must be an absolute path", f"Use /{settings.directory}."
        yield Violation(path=f"{_PATH}.directory", value=to_yaml(settings.directory), message=rule, fix=fix)
    output = PurePosixPath(settings.directory, config.output_dir)
    if not any(output.is_relative_to(directory) for directory in settings.claims):
        yield Violation(
            path=f"{_PATH}.claims",
            value="{" + ", ".join(settings.claims) + "}",
            message=f"no claim contains output_dir={output}, so checkpoints would be lost with their pod",
            fix=f"Add {{{output}: CLAIM}}.",
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
                fix = "Use NAME or DOMAIN/NAME, with NAME of at most 63 letters, digits, -, _ and '.'."
                yield Violation(
                    path=f"{_PATH}.{field}", value=to_yaml(key), message="keys must be valid in Kubernetes", fix=fix
                )
    for field, values in labels.items():
        for key, value in values.items():
            if value and not re.fullmatch(_NAME, value):
                rule, fix = "must be a valid label value", "Use at most 63 letters, digits, -, _ and '.'."
                yield Violation(path=f"{_PATH}.{field}.{key}", value=to_yaml(value), message=rule, fix=fix)
    own = {"cpu": "cpus", "memory": "memory", settings.gpu_resource: "gpu_resource with cluster.gpus_per_node"}
    for name, value in settings.resources.items():
        if name in own:
            rule, fix = "must not be set here: this resource has its own setting", f"Set {_PATH}.{own[name]}."
            yield Violation(path=f"{_PATH}.resources.{name}", value=to_yaml(value), message=rule, fix=fix)
    if not re.fullmatch(_QUALIFIED, settings.gpu_resource):
        rule = "must be the name of a resource"
        fix = "Use a name that `kubectl describe node` lists, such as nvidia.com/gpu."
        yield Violation(path=f"{_PATH}.gpu_resource", value=to_yaml(settings.gpu_resource), message=rule, fix=fix)


def _check_patch(field: str, patch: Mapping[str, object], *, fields: Mapping[str, str]) -> Iterator[Violation]:
    for key, value in patch.items():
        if key in fields:
            rule, fix = "must not be set here: this field has its own setting", f"Set {_PATH}.{fields[key]}."
            yield Violation(path=f"{_PATH}.{field}.{key}", value=to_yaml(value), message=rule, fix=fix)
