"""Every script that a launcher renders, before shellcheck."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from data_tools.executors.slurm import render_scripts
from data_tools.stages.preparation import Preparation, load_task
from launch import kubernetes
from launch.preflight.hardware import build_srun
from launch.slurm.__main__ import run
from trainer.config.load import group_options, load_config
from trireme.config.override_line import quote_text

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = ("model.vocab_size=8000", "data.train=[{paths:[/data/wiki]}]", "training.global_batch_size=64")
HARD = """/data/größe '"#&!()[]{}=; $HOME `x`"""
IGNORED = {
    "SC2016": "scripts of other shells stand in single quotes",
    "SC2317": "traps call functions, which it does not see",
}
VARIANTS = {
    "plain": (),
    "nodes": ("cluster=h100", "cluster.num_nodes=4"),
    "hard_names": (f"output_dir={quote_text(HARD)}", f"cluster.slurm.python={quote_text(HARD)}"),
    "sweep": ("-m", "optimizer.lr=1e-3,3e-4"),
    "chain": ("chain=3",),
    "chain_of_a_sweep": ("-m", "optimizer.lr=1e-3,3e-4", "chain=3"),
    "surroundings": (
        "cluster.slurm.modules=[cuda/12.8,'my module']",
        "cluster.slurm.network_interface=ib0",
        r"cluster.slurm.environment={PATH: '/my bin:\${PATH}', WORDS: 'a  b', A: '\${B:-\${C}}'}",
        "cluster.slurm.exclude='n[1-3]'",
        "cluster.slurm.srun_options={mpi: none, cpu-bind: 'map_cpu:0 1'}",
        "cluster.slurm.rendezvous_port=29500",
        "cluster.slurm.cpus_per_task=8",
    ),
    **{
        runtime: (
            "cluster=h100",
            f"cluster.slurm.container.runtime={runtime}",
            "cluster.slurm.container.image='/images/my trireme'",
            "cluster.slurm.container.mounts=['/my data:/data:ro']",
        )
        for runtime in ("pyxis", "apptainer")
    },
    **{
        option: (f"cluster={option}", "cluster.num_nodes=2")
        for option in group_options()["cluster"]
        if option.startswith("site/")
    },
}


def check(script: str, *, shell: str = "bash") -> None:
    """Have shellcheck read a script.

    Raises:
        AssertionError: with its words.
    """
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    command = ["shellcheck", f"--shell={shell}", f"--exclude={','.join(IGNORED)}", "--format=gcc", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def inner_scripts(script: str) -> Iterator[str]:
    """What stands between quotes for the shell of each node."""
    yield script.partition("run_node='\n")[2].partition("\n'\n")[0]


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_jobs(overrides: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert run([*GOOD, *overrides, "run_name=first", "dry_run=true"]) == 0
    script = capsys.readouterr().out
    check(script)
    for inner in inner_scripts(script):
        assert "exec" in inner
        check(inner)


@pytest.mark.parametrize("name", [name for name in VARIANTS if "sweep" not in name and "chain" not in name])
def test_checks_on_nodes(name: str) -> None:
    command = build_srun(load_config([*GOOD, *VARIANTS[name]]))
    assert command[-4:-2] == ["bash", "-c"]
    check(command[-2])


def test_jobs_that_prepare_data(tmp_path: Path) -> None:
    place = tmp_path / Path(HARD).name
    place.mkdir()
    (place / "notes.txt").write_text("a note")
    overrides = (
        f"data_prep.sources=[{{name:notes,kind:text,paths:[{quote_text(str(place / 'notes.txt'))}]}}]",
        f"data_prep.output_dir={quote_text(str(place / 'data'))}",
        f"data_prep.executor.slurm.python={quote_text(HARD)}",
        "data_prep.executor.slurm.options={constraint: 'a&b', exclusive: null}",
        "data_prep.executor.kind=slurm",
    )
    scripts = list(render_scripts(Preparation.of(load_task(overrides))))
    assert len(scripts) == 4
    for script in scripts:
        check(script.text)


@pytest.mark.parametrize("directory", ["/workspace", HARD])
@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_pods(kind: str, directory: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    overrides = (
        f"cluster.kubernetes.kind={kind}",
        f"cluster.kubernetes.directory={quote_text(directory)}",
        f"cluster.kubernetes.python={quote_text(directory)}",
        f"cluster.kubernetes.claims={{/{directory.split('/')[1]}: runs}}",
        "cluster.kubernetes.image=a/b:1",
    )
    assert kubernetes.run([*GOOD, *overrides, "run_name=first"]) == 0
    scripts = list(_find_scripts(list(yaml.safe_load_all(capsys.readouterr().out))))
    assert scripts
    for script in scripts:
        # As Kubernetes hands it on: $$ is $.
        check(script.replace("$$", "$"))


def _find_scripts(node: object) -> Iterator[str]:
    """What a manifest gives to bash."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _find_scripts(value)
    elif isinstance(node, list):
        if node[:2] == ["bash", "-c"]:
            yield node[2]
        for value in node:
            yield from _find_scripts(value)
