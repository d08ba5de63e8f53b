"""The directory protocol: appears at once, disappears at once, and cleans up after the dead."""

import hashlib
from pathlib import Path

import pytest

from trainer.checkpoint.directory import abandon_later, begin, commit, delete, list_checkpoints, retain
from trainer.checkpoint.manifest import FileRecord, read_manifest


def commit_small(run: Path, *, step: int, content: bytes = b"tensors", validation_loss: float | None = None) -> Path:
    temporary = begin(run, step=step)
    (temporary / "data").write_bytes(content)
    record = FileRecord(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return commit(temporary, step=step, files={"data": record}, validation_loss=validation_loss)


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    temporary = begin(tmp_path, step=10)
    assert temporary.name.startswith(".step_00000010.tmp-")
    assert temporary.parent == tmp_path / "checkpoints"
    (temporary / "data").write_bytes(b"")
    assert list_checkpoints(tmp_path) == []
    path = commit(temporary, step=10, files={})
    assert _names(tmp_path) == ["step_00000010"]
    assert list_checkpoints(tmp_path) == [path]
    assert read_manifest(path).step == 10


def test_a_save_removes_the_files_of_an_interrupted_one(tmp_path: Path) -> None:
    (begin(tmp_path, step=10) / "data").write_bytes(b"half")
    foreign = tmp_path / "checkpoints" / "notes.txt"
    foreign.write_text("mine")
    commit_small(tmp_path, step=20)
    assert _names(tmp_path) == ["notes.txt", "step_00000020"]


def test_a_directory_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    path = commit_small(tmp_path, step=10)
    (path / "manifest.json").unlink()
    assert list_checkpoints(tmp_path) == []
    commit_small(tmp_path, step=10)
    assert _names(tmp_path) == ["step_00000010"]


def test_order_is_that_of_saving(tmp_path: Path) -> None:
    for step in (10, 30, 20):
        commit_small(tmp_path, step=step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000020", "step_00000030", "step_00000010"]


def test_a_checkpoint_that_was_being_replaced_still_counts(tmp_path: Path) -> None:
    """The process died between the two renames."""
    path = commit_small(tmp_path, step=10)
    path.rename(path.with_name("step_00000010.replaced"))
    begin(tmp_path, step=10)
    assert [found.name for found in list_checkpoints(tmp_path)] == ["step_00000010.replaced"]
    again = commit_small(tmp_path, step=10, content=b"new")
    assert _names(tmp_path) == ["step_00000010"]
    assert (again / "data").read_bytes() == b"new"


def test_retention_keeps_the_last_saved(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        commit_small(tmp_path, step=step)
    retain(tmp_path, keep_last=0)
    assert len(list_checkpoints(tmp_path)) == 3
    retain(tmp_path, keep_last=2)
    assert _names(tmp_path) == ["step_00000002", "step_00000003"]


def test_checkpoints_after_a_rollback_are_set_aside_and_deleted_at_the_next_save(tmp_path: Path) -> None:
    first, *_ = (commit_small(tmp_path, step=step) for step in (10, 20, 30))
    abandoned = [path.name for path in abandon_later(tmp_path, than=first)]
    assert abandoned == ["step_00000030.abandoned", "step_00000020.abandoned"]
    assert list_checkpoints(tmp_path) == [first], "no start chooses another, not even before the next save"
    commit_small(tmp_path, step=20)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000020", "step_00000010"]
    retain(tmp_path, keep_last=0)
    assert len(_names(tmp_path)) == 4, "0 keeps all"
    retain(tmp_path, keep_last=2)
    assert _names(tmp_path) == ["step_00000010", "step_00000020"]


def test_a_second_rollback_leaves_the_same_step_again(tmp_path: Path) -> None:
    first = commit_small(tmp_path, step=10)
    for _ in range(2):
        commit_small(tmp_path, step=20)
        assert [path.name for path in abandon_later(tmp_path, than=first)] == ["step_00000020.abandoned"]
    assert _names(tmp_path) == ["step_00000010", "step_00000020.abandoned"]


def test_every_checkpoint_of_a_fork_is_later_than_its_source(tmp_path: Path) -> None:
    origin = commit_small(tmp_path / "parent", step=10)
    commit_small(tmp_path / "fork", step=20)
    assert [path.name for path in abandon_later(tmp_path / "fork", than=origin)] == ["step_00000020.abandoned"]
    assert list_checkpoints(tmp_path / "parent") == [origin]


def test_an_unreadable_manifest_comes_first_in_a_search_and_goes_first_in_retention(tmp_path: Path) -> None:
    first, _, _ = (commit_small(tmp_path, step=step) for step in (1, 2, 3))
    (first / "manifest.json").write_text("{")
    assert list_checkpoints(tmp_path)[0] == first
    retain(tmp_path, keep_last=3)
    assert first.exists()
    retain(tmp_path, keep_last=2)
    assert _names(tmp_path) == ["step_00000002", "step_00000003"]


def test_a_checkpoint_that_cannot_be_deleted_is_logged_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        commit_small(tmp_path, step=step)

    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("trainer.checkpoint.directory.shutil.rmtree", busy)
    retain(tmp_path, keep_last=1)
    assert "Failed to delete" in caplog.text
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002"], "no longer a checkpoint at once"


def test_deleting_a_missing_checkpoint_does_nothing(tmp_path: Path) -> None:
    delete(tmp_path / "step_00000001")


def test_a_file_that_rank_0_does_not_see_stops_the_commit(tmp_path: Path) -> None:
    temporary = begin(tmp_path, step=1)
    with pytest.raises(FileNotFoundError, match="all hosts share"):
        commit(temporary, step=1, files={"__3_0.distcp": FileRecord(num_bytes=1, sha256="")})
    assert list_checkpoints(tmp_path) == []
