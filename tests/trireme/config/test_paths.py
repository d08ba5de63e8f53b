"""Expansion of `~` in every path field of every schema, and invalid paths."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from data_tools.config.schema import DataPrepRoot
from launch.plan.cli import parse_request
from trainer.certificate.settings import CertifyRoot, load_settings
from trainer.config.load import dump_config, load_config, load_config_file
from trainer.config.schema import TrainConfig
from trireme.config.convert import Conversion, to_dataclass
from trireme.config.fields import field_types, nested_schemas, union_members
from trireme.config.path_text import MountText, PathText
from trireme.errors import ConfigError, Violation

PATHS = {
    "output_dir",
    "resume",
    "pretrained_checkpoint",
    "distill.teacher",
    "evaluation.tasks",
    "lora.base",
    "data.mask_word_list",
    "data.train.paths",
    "data.validation.paths",
    "tokenizer.path",
    "engine.nvme_path",
    "recovery.replay",
    "cluster.slurm.python",
    "cluster.slurm.container.image",
    "cluster.slurm.container.mounts",
    "certify.output_dir",
    "data_prep.output_dir",
    "data_prep.sources.paths",
    "data_prep.evaluations.paths",
    "data_prep.tokenizer.path",
    "data_prep.language.model_path",
    "data_prep.url_filter.block_lists",
    "data_prep.executor.slurm.python",
}
IN_PODS = {"cluster.kubernetes.image", "cluster.kubernetes.directory", "cluster.kubernetes.python"}
"""Not of this host: an image of a registry, and paths inside it."""


def _text_fields(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Return every field of strings, and whether it is marked as a path."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for name, annotation in field_types(schema).items():
        members = union_members(annotation)
        items = [item for member in members if typing.get_origin(member) is list for item in typing.get_args(member)]
        inner = [*nested_schemas(annotation), *(schema for item in items for schema in nested_schemas(item))]
        for one in inner:
            yield from _text_fields(one, f"{prefix}{name}.")
        if str in (*members, *items):
            is_path = any(marked in _parts(hints[name]) for marked in (PathText, MountText))
            yield prefix + name, is_path


def _parts(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is Annotated:
        return [annotation]
    return [part for argument in typing.get_args(annotation) for part in _parts(argument)]


def test_every_field_that_holds_a_path_is_marked() -> None:
    fields = dict(field for root in (TrainConfig, CertifyRoot, DataPrepRoot) for field in _text_fields(root))
    assert {name for name, is_path in fields.items() if is_path} == PATHS
    sounds_like_one = re.compile(r"(^|_)(path|paths|dir|directory|file|files|image|mounts|python|replay|lists?)$")
    assert {name for name in fields if sounds_like_one.search(name.rpartition(".")[2])} <= PATHS | IN_PODS


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", "/home/ada")
    return "/home/ada"


def test_training(home: str, tmp_path: Path) -> None:
    config = load_config(
        [
            "output_dir=~/runs",
            "resume=~/other",
            "tokenizer.path='~/tok.model'",
            "data.train=[{paths:[~/a,/b]}]",
            "data.validation=[{paths:['~/v']}]",
            "engine.nvme_path=~",
            "recovery.replay=~/r",
            "cluster.slurm.python=~/venv/bin/python",
            "cluster.slurm.container={image: ~/i.sqsh, mounts: ['~/data:/data:ro', '/x:~/y']}",
            "run_name=a~b",
        ]
    )
    found = (config.output_dir, config.resume, config.tokenizer.path, config.data.train[0].paths)
    assert found == (f"{home}/runs", f"{home}/other", f"{home}/tok.model", [f"{home}/a", "/b"])
    assert config.data.validation[0].paths == [f"{home}/v"]
    assert config.engine.name == "deepspeed" and config.engine.nvme_path == home
    slurm = config.cluster.slurm
    assert (config.recovery.replay, slurm.python) == (f"{home}/r", f"{home}/venv/bin/python")
    assert slurm.container.image == f"{home}/i.sqsh"
    assert slurm.container.mounts == [f"{home}/data:/data:ro", "/x:~/y"], "a container has its own home directories"
    assert config.run_name == "a~b", "a name is no path"
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config).replace(f"{home}/runs", "~/runs"))
    assert load_config_file(file) == config == load_config([f"config_file={file}"])


def test_saved_configurations_and_own_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(["run_name=saved"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(["config_file=~/config.yaml"]) == config
    (tmp_path / "conf" / "lr_schedule").mkdir(parents=True)
    (tmp_path / "conf" / "lr_schedule" / "mine.yaml").write_text("min_lr: 0.125\n")
    assert load_config(["hydra.searchpath=[~/conf]", "lr_schedule=mine"]).lr_schedule.min_lr == 0.125


def test_certificate_and_data_preparation(home: str) -> None:
    assert load_settings(["certify.output_dir=~/c"])[0].output_dir == f"{home}/c"
    prepared = _prepare(
        output_dir="~/out",
        sources=[{"name": "a", "kind": "text", "paths": ["~/x/*.txt", "s3://bucket/~/y"]}],
        tokenizer={"path": "~/t.model"},
        language={"model_path": "~/lid"},
        url_filter={"block_lists": ["~/domains"]},
        executor={"slurm": {"python": "~/python"}},
    ).config
    assert prepared is not None
    settings = prepared.data_prep
    assert (settings.output_dir, settings.tokenizer.path) == (f"{home}/out", f"{home}/t.model")
    assert settings.sources[0].paths == [f"{home}/x/*.txt", "s3://bucket/~/y"]
    assert (settings.language.model_path, settings.url_filter.block_lists) == (f"{home}/lid", [f"{home}/domains"])
    assert settings.executor.slurm.python == f"{home}/python"


def _prepare(**settings: Any) -> Conversion[DataPrepRoot]:
    return to_dataclass(DataPrepRoot, {"data_prep": {"output_dir": "o", "sources": [], **settings}})


def _refused(*overrides: str) -> dict[str, Violation]:
    with pytest.raises(ConfigError) as caught:
        load_config(["data.train=[{paths:[/data/wiki]}]", "model.vocab_size=1000", *overrides])
    return {violation.path: violation for violation in caught.value.violations}


def test_an_empty_path_is_refused_everywhere() -> None:
    problems = _refused(
        "output_dir=",
        "run_name=''",
        "resume=' '",
        "tokenizer.path=''",
        "engine.nvme_path=''",
        "recovery.replay=''",
        "cluster.slurm.container.image=''",
    )
    assert set(problems) == {
        "output_dir",
        "run_name",
        "resume",
        "tokenizer.path",
        "engine.nvme_path",
        "recovery.replay",
        "cluster.slurm.container.image",
    }
    assert str(problems["output_dir"]) == "output_dir: must not be empty (got ''). Use a path."
    assert set(_refused("data.train=[{paths:['']}]")) == {"data.train[0].paths[0]"}
    assert problems["tokenizer.path"].fix == "Use a path, or null."
    assert [violation.path for violation in _prepare(output_dir="", tokenizer={"path": ""}).violations] == [
        "data_prep.output_dir",
        "data_prep.tokenizer.path",
    ]
    with pytest.raises(ConfigError, match=r"certify\.output_dir: must not be empty"):
        load_settings(["certify.output_dir=''"])


def test_a_home_directory_that_nobody_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _refused("output_dir=~no_such_user/x")["output_dir"]
    assert str(problem) == (
        "output_dir: cannot expand ~no_such_user: user no_such_user does not exist; for a file name that begins with ~"
        " write ./~no_such_user (got '~no_such_user/x'). Use a path."
    )
    assert load_config(["output_dir=./~no_such_user"]).output_dir == "./~no_such_user"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where neither HOME nor the user's entry is there
    assert "HOME is not set" in str(_refused("output_dir=~/x")["output_dir"])


def test_words_of_the_planner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "measured.json").touch()
    request = parse_request(["html=~/plan.html", "json=/tmp/plan.json", "calibration=~/measured.json"])
    assert (request.html, request.json) == (tmp_path / "plan.html", Path("/tmp/plan.json"))
    assert request.calibration == str(tmp_path / "measured.json")
    with pytest.raises(ConfigError, match="html: must not be empty"):
        parse_request(["html="])
