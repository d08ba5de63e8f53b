"""The manifests against the schemas of the resources, and what a user reads."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.client import models

from launch.kubernetes import main
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
    return [f"{problem.path} {problem.rule}" for problem in check_manifest(job)]


@pytest.mark.parametrize("overrides", [(), FULL])
def test_a_pytorch_job_is_what_the_operator_takes(
    render: Callable[..., list[dict[str, Any]]], overrides: tuple[str, ...]
) -> None:
    config_map, job = render(*overrides)
    check_model(config_map, "V1ConfigMap")
    assert check_job(job) == []
    (problem,) = check_job({**job, "spec": {**job["spec"], "nprocPerNod": "8"}})
    assert problem.startswith("PyTorchJob.spec is refused by the schema of the resource: ")
    assert "('nprocPerNod' was unexpected)" in problem
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {kind: replica["replicas"] for kind, replica in replicas.items()} == (
        {"Master": 1, "Worker": 3} if overrides else {"Master": 1}
    )
    assert job["spec"]["nprocPerNode"] == "8"
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert job["metadata"]["name"] == "trireme-my-run-1"


@pytest.mark.parametrize("overrides", [(), FULL])
def test_a_train_job_is_what_the_trainer_takes(
    render: Callable[..., list[dict[str, Any]]], overrides: tuple[str, ...]
) -> None:
    config_map, job = render("cluster.kubernetes.kind=TrainJob", *overrides)
    check_model(config_map, "V1ConfigMap")
    assert check_job(job) == []
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
    assert container["command"][-1].endswith("-m trainer.train config_file=/etc/trireme/config.yaml")
    assert container["env"] == [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "OMP_NUM_THREADS", "value": "4"},
        {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}},
    ]
    assert pod["terminationGracePeriodSeconds"] == 600
    other = render(*FULL, "training.seed=7")[0]
    assert other["metadata"]["name"] != config_map["metadata"]["name"], "a job that runs keeps its configuration"


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
    assert [line.split(". ", 1)[1].partition("=")[0] for line in said.splitlines()[1:]] == [
        "cluster.num_nodes",
        "cluster.kubernetes.image",
        "run_name",
        "cluster.kubernetes.claims",
        "cluster.kubernetes.claims",
        "cluster.kubernetes.secrets.KEY",
        "cluster.kubernetes.environment.a-b",
    ]
    assert "has no claim that holds output_dir, /workspace/outputs: checkpoints would go away with their pod" in said


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("PyTorchJob", "PyTorchJob.spec.pytorchReplicaSpecs.Master.template.spec.containers[0]"),
        ("TrainJob", "TrainJob.spec.trainer"),
    ],
)
def test_what_the_api_server_would_refuse_is_said_before(launch: Launch, kind: str, path: str) -> None:
    code, printed, said = launch(
        *GOOD,
        *FULL,
        f"cluster.kubernetes.kind={kind}",
        "cluster.kubernetes.memory=900GB",
        "cluster.kubernetes.environment={WANDB_API_KEY: no-secret}",
    )
    assert (code, printed) == (2, "")
    assert said.count(f"{path}.") == 2, "once for all pods that are alike"
    assert "limits.memory=900GB is no quantity of Kubernetes; write a number with or without a unit" in said
    assert f"{path}.env=[" in said
    assert "{name: WANDB_API_KEY} is there twice" in said


def test_help_and_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from launch.kubernetes import main; code = main();"
        " heavy = {'torch', 'megatron', 'deepspeed', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        " sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m launch.kubernetes" in done.stdout
