"""Files of results that a user has named are written, or the command says that they are not by its exit code."""

import json
import logging
from pathlib import Path

import pytest

from tests.trireme.small_disk import fill, small_file_system
from trainer.evaluation.result_files import check_result_file, keep_result, keep_result_of, write_asked
from trireme.errors import EXIT_STOPPED, RunStopped


def test_results_are_added_to_a_list(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for number in range(2):
        assert check_result_file(path, option="--output") == []
        keep_result(path, {"number": number}, is_asked=True)
    assert json.loads(path.read_text()) == [{"number": 0}, {"number": 1}]


def test_a_result_goes_into_the_run_of_its_checkpoint_or_into_the_named_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    keep_result_of(checkpoint, {"number": 0}, name="own.json", output=None)
    keep_result_of(checkpoint, {"number": 1}, name="own.json", output=tmp_path / "named.json")
    with caplog.at_level(logging.INFO):
        keep_result_of(tmp_path / "elsewhere", {"number": 2}, name="own.json", output=None)
    assert f"{tmp_path / 'elsewhere'} is not in a run directory; own.json is not written." in caplog.text
    files = {path.name: json.loads(path.read_text()) for path in tmp_path.rglob("*.json")}
    assert files == {"own.json": [{"number": 0}], "named.json": [{"number": 1}]}
    assert (tmp_path / "run" / "own.json").exists()


@pytest.mark.parametrize("content", [b"{}", b"text", b"\xff"])
def test_a_named_file_that_holds_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    (violation,) = check_result_file(path, option="--output")
    assert violation.message == "exists, and is no list of results to add to"


def test_a_full_disk_ends_a_command_whose_files_were_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_file_system(tmp_path / "disk", kibibytes=64) as place:
        fill(place)
        with pytest.raises(RunStopped, match="cannot be written: No space left") as caught:
            keep_result(place / "results.json", {"a": 1}, is_asked=True)
        assert caught.value.exit_code == EXIT_STOPPED
        with pytest.raises(RunStopped, match="cannot be written"):
            write_asked(place / "page.html", "text")
        with caplog.at_level(logging.WARNING):
            keep_result(place / "results.json", {"a": 1}, is_asked=False)
        assert "Failed to write" in caplog.text
        assert [path.name for path in place.iterdir()] == ["filler"]
