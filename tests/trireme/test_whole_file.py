"""Files are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from tests.trireme.small_disk import small_file_system
from trireme.files import write_whole, written_whole


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with written_whole(path) as partial:
        assert (path.read_text(), partial.read_text()) == ("old", "")
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_unfinished_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="no more"), written_whole(path) as partial:
        partial.write_text("half of it")
        raise RuntimeError("no more")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_remains_of_a_killed_process_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.json.partial").write_text("something much longer")
    with written_whole(tmp_path / "a.json") as partial, partial.open("ab") as stream:
        stream.write(b"new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_others_cannot_read_a_secret_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with written_whole(path, mode=0o600) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        partial.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_disk(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", kibibytes=64) as disk:
        path = disk / "a.txt"
        write_whole(path, "old")
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "x" * 1_000_000)
        assert path.read_text() == "old"
        assert os.listdir(disk) == ["a.txt"]
