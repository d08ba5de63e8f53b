"""The presets of sites: complete, sourced, and shown in docs as they are rendered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.kubernetes import build_manifest
from launch.kubernetes_checks import check_kubernetes
from launch.manifest_schema import check_manifest
from launch.sites import render_sites
from trainer.config.load import group_options, load_config
from trainer.config.validate import validate
from trireme.project import CONF_DIR

REPOSITORY = Path(__file__).resolve().parents[2]
SITES = [option for option in group_options()["cluster"] if option.startswith("site/")]
RUN = (
    "model.vocab_size=8000",
    "data.train=[{paths:[/data/wiki]}]",
    "training.global_batch_size=64",
    "cluster.num_nodes=2",
    "cluster.kubernetes.image=registry/trireme:1",
    "cluster.kubernetes.claims={/workspace: runs}",
)


def test_docs_show_what_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    rendered = render_sites()
    written = {
        str(file.relative_to(REPOSITORY / "docs" / "launch")): file.read_text(encoding="utf-8")
        for file in (REPOSITORY / "docs" / "launch" / "sites.md", *(REPOSITORY / "docs" / "launch" / "sites").iterdir())
    }
    assert rendered == written, "run: rm -r docs/launch/sites; python -m launch.sites"
    assert not re.search(re.escape(str(REPOSITORY)), "".join(rendered.values()))


def test_the_sites_that_are_asked_for_are_there() -> None:
    names = {"aws_efa", "gcp_gib", "gcp_tcpxo", "azure", "coreweave", "lambda", "lumi", "leonardo", "juwels", "alps"}
    assert names <= {option.removeprefix("site/") for option in SITES}


@pytest.mark.parametrize("option", SITES)
def test_a_site_breaks_no_rule(option: str) -> None:
    config = load_config([f"cluster={option}", *RUN])
    assert validate(config, world_size=config.cluster.num_nodes * (config.cluster.gpus_per_node or 0)) == []
    assert list(check_kubernetes(config, job_name="trireme-x")) == []
    for kind in ("PyTorchJob", "TrainJob"):
        config = load_config([f"cluster={option}", *RUN, f"cluster.kubernetes.kind={kind}"])
        for document in build_manifest(config, job_id="x")[1:]:
            assert list(check_manifest(document)) == []
    assert config.cluster.device, "predictions need the device"


def lines_without_source(text: str) -> Iterator[str]:
    """Settings of `slurm:` and `kubernetes:` for which no comment says where they are from."""
    source, depth = False, 0
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip().startswith("#"):
            source, depth = True, indent
        elif re.match(r"\s+[A-Z][A-Z0-9_]+:", line) and "#" not in line and not (source and indent >= depth):
            yield line
        elif line and indent < depth:
            source = False
        elif "#" in line:
            source, depth = True, indent


@pytest.mark.parametrize("option", SITES)
def test_each_variable_has_its_source(option: str) -> None:
    text = (CONF_DIR / "cluster" / f"{option}.yaml").read_text(encoding="utf-8")
    body = text[text.index("\nslurm:") :]
    assert list(lines_without_source(body)) == []
    assert "#" in body


def test_a_variable_without_source_would_be_found() -> None:
    assert list(lines_without_source("slurm:\n  environment:\n    NCCL_NET: x\n")) == ["    NCCL_NET: x"]


def test_a_file_of_ones_own_builds_on_a_site(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "launch" / "sites.md").read_text(encoding="utf-8")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "ours.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    config = load_config(
        ["cluster=ours", f"hydra.searchpath=[{tmp_path}]", "cluster.slurm.environment.NCCL_DEBUG=INFO"]
    )
    cluster = config.cluster
    assert (cluster.device, cluster.slurm.partition) == ("h200", "p5e")
    assert cluster.slurm.environment["FI_PROVIDER"] == "efa" and cluster.slurm.environment["NCCL_DEBUG"] == "INFO"
