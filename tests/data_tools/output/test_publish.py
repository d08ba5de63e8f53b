"""Publishing: stopped anywhere, it is finished by the next run, and no shard is ever a mixture."""

import os
import shutil
from pathlib import Path

import pytest

from data_tools.output import publish as preparation
from data_tools.output.exchange import BUILT_NAME
from data_tools.output.publish import WORK_NAME, find_finished, publish, record_files
from trireme.errors import ConfigError

NAMES = ("train.bin", "train.idx", "train.manifest.json", "train.documents.parquet", "tokenizer.model", "stats.json")


def build(output: Path, text: str, names: tuple[str, ...] = NAMES) -> None:
    built = output / WORK_NAME / BUILT_NAME
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    for name in names:
        (built / name).write_text(f"{text} {name}")
    record_files(output, {"text": text}, on_bytes=lambda _: None)
    publish(output)


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch, *, output: Path) -> None:
    """Make the renaming into the output directory fail from its number-th file on."""
    rename = os.replace
    done: list[object] = []

    def replace(source: object, target: Path) -> None:
        if Path(target).parent == output:
            if len(done) == number:
                raise KeyboardInterrupt
            done.append(target)
        rename(source, target)  # type: ignore[call-overload]

    monkeypatch.setattr(preparation.os, "replace", replace)


@pytest.mark.parametrize("number", range(len(NAMES) + 1))
def test_a_stopped_publication_is_finished_later(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, "old", (*NAMES, "validation.idx"))
    assert find_finished(tmp_path, {"text": "old"}, overwrite=False)
    with monkeypatch.context() as patch:
        stop_at(number, patch, output=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, "new")
    # Whatever has an index has its tokens, and whatever has a manifest has everything.
    if (tmp_path / "train.idx").exists():
        assert (tmp_path / "train.bin").read_text() == "new train.bin"
    if (tmp_path / "train.manifest.json").exists():
        assert all((tmp_path / name).read_text() == f"new {name}" for name in NAMES)
    assert find_finished(tmp_path, {"text": "new"}, overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, "preparation.json"}
    assert all((tmp_path / name).read_text() == f"new {name}" for name in NAMES)


def test_a_preparation_that_lost_a_file_is_not_finished(tmp_path: Path) -> None:
    build(tmp_path, "x")
    (tmp_path / "train.bin").write_text("cut")
    assert not find_finished(tmp_path, {"text": "x"}, overwrite=False)


def test_a_preparation_of_a_version_with_other_names_is_recognized(tmp_path: Path) -> None:
    description = {"settings": {"further_steps": [], "seed": 1}}
    (tmp_path / WORK_NAME / BUILT_NAME).mkdir(parents=True)
    record_files(tmp_path, description, on_bytes=lambda _: None)
    publish(tmp_path)
    assert find_finished(tmp_path, {"settings": {"custom_filters": [], "seed": 1}}, overwrite=False)


def test_an_unreadable_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "preparation.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read the file"):
        find_finished(tmp_path, {"text": "x"}, overwrite=True)
