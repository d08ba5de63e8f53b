"""The nearest existing parent of a path."""

import os
import tempfile
from pathlib import Path

import pytest

from trireme.files import nearest_existing_parent


def test_the_nearest_that_exists_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    assert nearest_existing_parent(tmp_path) == tmp_path
    assert nearest_existing_parent(tmp_path / "a" / "b" / "c") == tmp_path
    assert nearest_existing_parent(file / "below") == file, "what stands in the way"
    assert nearest_existing_parent(tmp_path / ("long" * 100) / "run") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_existing_parent(Path("outputs/run")) == tmp_path
    assert nearest_existing_parent(Path("")) == tmp_path
    assert nearest_existing_parent(Path("/no-such-place/a")) == Path("/")


def test_a_directory_that_may_not_be_entered_is_the_nearest() -> None:
    nobody, me = 65534, os.geteuid()
    # Not in pytest's directory, which only its user may enter.
    with tempfile.TemporaryDirectory() as name:
        hidden = Path(name).resolve() / "hidden"
        (hidden / "run").mkdir(parents=True)
        hidden.parent.chmod(0o755)
        hidden.chmod(0o600)
        try:
            if me == 0:
                os.seteuid(nobody)
            assert nearest_existing_parent(hidden / "run") == hidden
        finally:
            os.seteuid(me)
            hidden.chmod(0o700)
