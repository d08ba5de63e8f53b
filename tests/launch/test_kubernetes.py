"""The manifests against the schemas of the resources, and what a user reads."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.client import models

from launch.kubernetes import job_name, main
from launch.manifest_schema import check_manifest
from trainer.config.load import load_config, load_config_file

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = (
    "model.vocab_size=8000",
    "data.train=[{paths:[/data/wiki]}]",
    "run_name=My_run.1",
    "cluster=h100",
    "training.global_batch_size=32",
    "tokenizer.path=/data/tokenizer.model",
    "cluster.kubernetes.image=registry/trireme:1",
    "cluster.kubernetes.claims={/workspace: runs, /data: corpus}",
)
FULL = (
    "cluster.num_nodes=4",
    "cluster.kubernetes.namespace=research",
    "cluster.kubernetes.cpus='96'",
    "cluster.kubernetes.memory=900Gi",
    "cluster.kubernetes.node_selector={gpu: h100}",
    "cluster.kubernetes.service_account=trainer",
    "cluster.kubernetes.environment={NCCL_DEBUG: INFO, OMP_NUM_THREADS: 4}",
    "cluster.kubernetes.secrets={WANDB_API_KEY: wandb/key}",
    "cluster.kubernetes.grace_seconds=600",
)
SITE = (
    "cluster.kubernetes.resources={vpc.amazonaws.com/efa: 32, hugepages-2Mi: 5Gi}",
    "cluster.kubernetes.tolerations=[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]",
    "cluster.kubernetes.priority_class=training",
    "cluster.kubernetes.pull_secrets=[registry]",
    "cluster.kubernetes.host_network=true",
    "cluster.kubernetes.capabilities=[IPC_LOCK]",
    "cluster.kubernetes.labels={kueue.x-k8s.io/queue-name: research}",
    "cluster.kubernetes.annotations={owner: me}",
    "cluster.kubernetes.pod_labels={team: nlp}",
    "cluster.kubernetes.pod_annotations={networking.gke.io/default-interface: eth0}",
    "cluster.kubernetes.pod={volumes: [{name: gib, hostPath: {path: /home/kubernetes/bin/gib}}],"
    " shareProcessNamespace: true}",
    "cluster.kubernetes.container={volumeMounts: [{name: gib, mountPath: /usr/local/gib}],"
    " securityContext: {privileged: true}}",
)

Launch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Launch:
    """The command, in this process: its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["launch.kubernetes", *arguments])
        code = main()
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def render(launch: Launch) -> Callable[..., list[dict[str, Any]]]:
    """The documents of a manifest."""

    def run(*overrides: str) -> list[dict[str, Any]]:
        code, printed, said = launch(*GOOD, *overrides)
        assert (code, said) == (0, "")
        return list(yaml.safe_load_all(printed))

    return run


def schema_of_model(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a type as the openapi generator's Python 2 models write it: V1Pod, list[V1Env], dict(str, str)."""
    plain = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "Quantity": "string"}
    if name in plain:
        return {"type": plain[name]}
    if name in ("object", "datetime"):
        return {}
    if match := re.fullmatch(r"list\[(.*)\]", name):
        return {"type": "array", "items": schema_of_model(match.group(1), definitions)}
    if match := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", name):
        return {"type": "object", "additionalProperties": schema_of_model(match.group(1), definitions)}
    if name not in definitions:
        model = getattr(models, name)
        definitions[name] = {"type": "object", "additionalProperties": False}
        definitions[name]["properties"] = {
            model.attribute_map[field]: schema_of_model(kind, definitions)
            for field, kind in model.openapi_types.items()
        }
    return {"$ref": f"#/$defs/{name}"}


def check_model(document: dict[str, Any], name: str) -> None:
    definitions: dict[str, Any] = {}
    jsonschema.validate(document, {**schema_of_model(name, definitions), "$defs": definitions})


def check_job(job: dict[str, Any]) -> list[str]:
    check_model(job["metadata"], "V1ObjectMeta")
    return [f"{problem.path} {problem.message}" for problem in check_manifest(job)]


@pytest.mark.parametrize("overrides", [(), FULL, (*FULL, *SITE)])
def test_a_pytorch_job_is_what_the_operator_takes(
    render: Callable[..., list[dict[str, Any]]], overrides: tuple[str, ...]
) -> None:
    config_map, job = render(*overrides)
    check_model(config_map, "V1ConfigMap")
    assert check_job(job) == []
    (problem,) = check_job({**job, "spec": {**job["spec"], "nprocPerNod": "8"}})
    assert problem.startswith("PyTorchJob.spec does not match the schema of the resource: ")
    assert "('nprocPerNod' was unexpected)" in problem
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {kind: replica["replicas"] for kind, replica in replicas.items()} == (
        {"Master": 1, "Worker": 3} if overrides else {"Master": 1}
    )
    assert job["spec"]["nprocPerNode"] == "8"
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert job["metadata"]["name"] == "trireme-my-run-1-3af800"


@pytest.mark.parametrize("overrides", [(), FULL, (*FULL, *SITE)])
def test_a_train_job_is_what_the_trainer_takes(
    render: Callable[..., list[dict[str, Any]]], overrides: tuple[str, ...]
) -> None:
    config_map, runtime, job = render("cluster.kubernetes.kind=TrainJob", *overrides)
    check_model(config_map, "V1ConfigMap")
    assert check_job(runtime) == check_job(job) == []
    assert job["spec"]["runtimeRef"] == {"kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    (problem,) = check_job({**job, "spec": {**job["spec"], "trainer": {"numNode": 2}}})
    assert problem.startswith("TrainJob.spec.trainer ") and "('numNode' was unexpected)" in problem
    assert job["spec"]["trainer"]["numNodes"] == (4 if overrides else 1)
    assert job["spec"]["trainer"]["numProcPerNode"] == 8


def test_pods_find_configuration_data_and_secrets(render: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    config_map, job = render(*FULL)
    file = tmp_path / "config.yaml"
    file.write_text(config_map["data"]["config.yaml"])
    assert load_config_file(file) == load_config([*GOOD, *FULL])
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {mounted[volume["name"]]: volume for volume in pod["volumes"]}
    assert volumes["/etc/trireme"]["configMap"]["name"] == config_map["metadata"]["name"]
    assert volumes["/data"]["persistentVolumeClaim"] == {"claimName": "corpus"}
    assert volumes["/workspace"]["persistentVolumeClaim"] == {"claimName": "runs"}
    assert "-m trainer.train config_file=/etc/trireme/config.yaml\n" in container["command"][-1]
    assert [item for item in container["env"] if "TORCH" not in item["name"] and "TRIREME" not in item["name"]] == [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "OMP_NUM_THREADS", "value": "4"},
        {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}},
    ]
    assert pod["terminationGracePeriodSeconds"] == 600
    other = render(*FULL, "training.seed=7")[0]
    assert other["metadata"]["name"] != config_map["metadata"]["name"], "a job that runs keeps its configuration"


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod template of a manifest."""
    spec = documents[1]["spec"]
    if documents[1]["kind"] == "TrainingRuntime":
        return dict(spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"])
    return dict(spec["pytorchReplicaSpecs"]["Master"]["template"])


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_pods_ask_for_what_a_site_needs(render: Callable[..., list[dict[str, Any]]], kind: str) -> None:
    documents = render(*SITE, f"cluster.kubernetes.kind={kind}")
    job, template = documents[-1], pod_of(documents)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["metadata"]["annotations"] == {"owner": "me"}
    assert template["metadata"] == {
        "labels": {"team": "nlp"},
        "annotations": {"networking.gke.io/default-interface": "eth0"},
    }
    pod = template["spec"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("training", [{"name": "registry"}])
    assert [volume["name"] for volume in pod["volumes"]] == ["config", "shared-memory", "claim-0", "claim-1", "gib"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}, "privileged": True}
    assert container["volumeMounts"][-1] == {"name": "gib", "mountPath": "/usr/local/gib"}
    resources = job["spec"]["trainer"]["resourcesPerNode"] if kind == "TrainJob" else container["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32", "hugepages-2Mi": "5Gi"}


def test_a_patch_of_the_pod_is_checked(launch: Launch) -> None:
    code, printed, said = launch(*GOOD, "cluster.kubernetes.pod={hostNetwrk: true}")
    assert (code, printed) == (2, "")
    assert "('hostNetwrk' was unexpected)" in said


def test_a_runtime_of_the_cluster_may_be_built_on(render: Callable[..., list[dict[str, Any]]]) -> None:
    _, job = render(*FULL, "cluster.kubernetes.kind=TrainJob", "cluster.kubernetes.runtime=torch-distributed")
    assert check_job(job) == []
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert job["spec"]["runtimePatches"]


def test_no_restart_is_counted_in_pods(render: Callable[..., list[dict[str, Any]]]) -> None:
    """The operator counts restarts of all pods together against backoffLimit: ten nodes would share ten."""
    _, job = render("cluster.num_nodes=10", "training.global_batch_size=80")
    assert "backoffLimit" not in job["spec"]["runPolicy"]
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    assert {replica["restartPolicy"] for replica in replicas} == {"ExitCode"}
    _, job = render("cluster.kubernetes.max_restarts=0")
    assert job["spec"]["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "Never"
    _, runtime, _ = render("cluster.kubernetes.kind=TrainJob")
    spec = runtime["spec"]["template"]["spec"]
    assert [rule["action"] for rule in spec["failurePolicy"]["rules"]] == [
        "FailJobSet",
        "RestartJobSetAndIgnoreMaxRestarts",
    ]
    pods = spec["replicatedJobs"][0]["template"]["spec"]
    assert {2, 82} < set(pods["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"])
    assert (pods["backoffLimit"], pods["template"]["spec"]["restartPolicy"]) == (0, "Never")


class Pods:
    """Starts the command of a manifest's pods, in which another program stands for Python."""

    def __init__(self, render: Callable[..., list[dict[str, Any]]], directory: Path, *overrides: str) -> None:
        self.directory = directory
        self.python = directory / "py thon'$$(HOME)"
        self.run = directory / "out $(x)" / "a_b"
        claims = f"{{{directory}: runs}}"
        quoted = str(self.python).replace("'", "\\'")
        *_, job = render(
            f"cluster.kubernetes.directory={directory}",
            f"cluster.kubernetes.claims={claims}",
            f"cluster.kubernetes.python='{quoted}'",
            "run_name=a_b",
            "output_dir='out $(x)'",
            *overrides,
        )
        (container,) = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
        # As the kubelet reads it.
        self.command = [word.replace("$$", "$") for word in container["command"]]
        self.environment = {item["name"]: item["value"] for item in container["env"]}

    def write_run(self, script: str) -> None:
        self.python.write_text(f"#!/usr/bin/env bash\n{script}\n")
        self.python.chmod(0o755)

    def start(self, *, node: int = 0) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment, "PET_NODE_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def exit_code(self, *, node: int = 0) -> int:
        process = self.start(node=node)
        _, self.errors = process.communicate(timeout=30)
        return process.returncode

    def save(self, step: int) -> None:
        (self.run / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0, 0), (2, 2), (82, 82), (126, 126), (1, 129), (75, 203), (79, 207), (81, 209), (137, 137), (143, 143)],
)
def test_a_pod_exits_with_128_or_more_only_where_it_is_to_start_again(
    render: Callable[..., list[dict[str, Any]]], tmp_path: Path, code: int, expected: int
) -> None:
    pods = Pods(render, tmp_path)
    pods.write_run(f'[ "$PWD" = {tmp_path} ] && [ "$1 $2" = "-m trainer.torchrun" ] && exit {code}')
    assert pods.exit_code() == pods.exit_code(node=1) == expected


def test_pods_start_again_as_often_as_was_asked_for(
    render: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    pods = Pods(render, tmp_path, "cluster.kubernetes.max_restarts=2")
    pods.write_run("exit 1")
    pods.save(5)
    for _ in range(2):
        assert pods.exit_code() == 129
    pods.save(10)
    assert [pods.exit_code() for _ in range(3)] == [129, 129, 129]
    assert [pods.exit_code(node=node) for node in range(1, 10)] == [129] * 9, "ten pods that fail are one failure"
    assert pods.exit_code() == 1
    assert "3 consecutive restarts made no progress (latest checkpoint: 00000010)" in pods.errors
    assert "max_restarts=2" in pods.errors
    assert Pods(render, tmp_path).environment.keys() == pods.environment.keys()


def test_an_eviction_is_not_counted_as_a_failure(render: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    pods = Pods(render, tmp_path, "cluster.kubernetes.max_restarts=1")
    pods.write_run("trap 'exit 75' TERM; echo ready; while true; do sleep 0.05; done")
    for _ in range(3):
        process = pods.start()
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 203
    pods.write_run("exit 1")
    assert [pods.exit_code() for _ in range(3)] == [129, 129, 1]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_of_pods_pass_shellcheck(render: Callable[..., list[dict[str, Any]]]) -> None:
    command = render()[-1]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["command"]
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "-"], input=command[-1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_run_names_map_to_distinct_kubernetes_names() -> None:
    names = ("a-b", "a_b", "A.B", "a--b", "A-b", "\u00e4-b")
    jobs = {job_name(load_config([*GOOD, f"run_name='{name}'"])) for name in names}
    assert len(jobs) == len(names)
    assert "trireme-a-b" in jobs, "a name that Kubernetes takes stays as it is"
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job) for job in jobs)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "namespace=My_Team",
            "namespace: must be a valid Kubernetes name (got My_Team). Use at most 63 lower-case letters",
        ),
        ("namespace=''", "namespace: must be a valid Kubernetes name."),
        ("image='registry/trireme 1'", "image: must be an image reference (got registry/trireme 1). Use [REGISTRY"),
        ("image=https://registry/trireme", "image: must be an image reference (got https://registry/trireme)"),
        ("image=Trireme:1", "image: must be an image reference (got Trireme:1)"),
        ("image=registry/trireme:", "image: must be an image reference (got registry/trireme:)"),
        ("service_account=a_b", "service_account: must be a valid Kubernetes name (got a_b)"),
        ("pull_secrets=[A]", "pull_secrets[0]: must be a valid Kubernetes name (got A)"),
        ("claims={/workspace: Runs}", "claims./workspace: must be a valid Kubernetes name (got Runs)"),
        ("claims={/workspace: runs, /dev/shm: x}", "claims: a claim cannot be mounted at this path (got /dev/shm)"),
        ("directory=workspace", "directory: must be an absolute path (got workspace). Use /workspace."),
        ("secrets={KEY: A B/c}", "secrets.KEY: must reference a key of a secret (got A B/c)"),
        ("pod_labels={team: 'a b'}", "pod_labels.team: must be a valid label value (got a b)"),
        ("node_selector={a b: c}", "node_selector: keys must be valid in Kubernetes (got a b)"),
        (
            "resources={cpu: 4}",
            "this resource has its own setting (got 4). Set cluster.kubernetes.cpus",
        ),
        ("gpu_resource='a b'", "gpu_resource: must be the name of a resource (got a b)"),
        (
            "pod={nodeSelector: {a: b}}",
            "this field has its own setting (got {a: b}). Set cluster.kubernetes.node_selector.",
        ),
        (
            "container={image: x}",
            "this field has its own setting (got x). Set cluster.kubernetes.image.",
        ),
    ],
)
def test_invalid_kubernetes_settings_are_refused(launch: Launch, override: str, problem: str) -> None:
    code, printed, said = launch(*GOOD, f"cluster.kubernetes.{override}")
    assert (code, printed) == (2, "")
    assert problem in said


@pytest.mark.parametrize(
    "image",
    [
        "trireme",
        "registry/trireme:1",
        "localhost:5000/a/b_c/d--e:v1.0-rc",
        "ghcr.io/org/trireme@sha256:" + "0f" * 32,
        "123.dkr.ecr.us-east-1.amazonaws.com/trireme:1@sha256:" + "0f" * 32,
    ],
)
def test_images_of_every_form_are_taken(render: Callable[..., list[dict[str, Any]]], image: str) -> None:
    _, job = render(f"cluster.kubernetes.image='{image}'")
    assert job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["image"] == image


def test_every_problem_is_printed_and_no_manifest(launch: Launch) -> None:
    code, printed, said = launch(
        "model.vocab_size=8000",
        "data.train=[{paths:[/data/wiki]}]",
        "parallel=dp2_pp2",
        "cluster.num_nodes=3",
        f"run_name={'long' * 20}",
        "cluster.kubernetes.claims={data: corpus}",
        "cluster.kubernetes.secrets={KEY: wandb}",
        "cluster.kubernetes.environment={a-b: 1}",
    )
    assert (code, printed) == (2, "")
    assert [line.split(". ", 1)[1].partition(": ")[0] for line in said.splitlines()[1:]] == [
        "cluster.num_nodes",
        "run_name",
        "cluster.kubernetes.image",
        "cluster.kubernetes.claims",
        "cluster.kubernetes.claims",
        "cluster.kubernetes.secrets.KEY",
        "cluster.kubernetes.environment.a-b",
    ]
    assert "no claim contains output_dir=/workspace/outputs, so checkpoints would be lost with their pod" in said


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("PyTorchJob", "PyTorchJob.spec.pytorchReplicaSpecs.Master.template.spec.containers[0]"),
        ("TrainJob", "TrainJob.spec.trainer"),
    ],
)
def test_manifests_that_the_api_server_would_reject_are_refused(launch: Launch, kind: str, path: str) -> None:
    code, printed, said = launch(
        *GOOD,
        *FULL,
        f"cluster.kubernetes.kind={kind}",
        "cluster.kubernetes.memory=900GB",
        "cluster.kubernetes.environment={WANDB_API_KEY: no-secret}",
    )
    assert (code, printed) == (2, "")
    assert said.count(f"{path}.") == 2, "once for all pods that are alike"
    assert "limits.memory: must be a Kubernetes quantity (got 900GB). Use a number with or without a unit" in said
    assert f"{path}.env: does not match" in said
    assert "{name: WANDB_API_KEY} is repeated" in said


def test_help_and_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from launch.kubernetes import main; code = main();"
        " heavy = {'torch', 'megatron', 'deepspeed', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        " sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: trireme kubernetes" in done.stdout
